# One daemon. Built from the same pinned wheels and by the same commands as `make run`
# (tests/examples/test_dockerfile.py compares them); no compiler, no package outside the pins.
#
#   docker build -t modelmesh .
#   docker run --read-only -v modelmesh-data:/data -p 8033:8033 -p 8008:8008 modelmesh
#
# The root file system may be read-only; the daemon writes below /data and nowhere else. Every
# setting is an environment variable (docs/SETTINGS.md). No HEALTHCHECK: whoever runs the container
# asks /live and /ready on the probe port.
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/modelmesh

# What it needs, in a layer that changes only with the pins.
COPY requirements/run.txt requirements/run.txt
RUN python -m venv .venv \
 && .venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/run.txt

COPY pyproject.toml README.md ./
COPY modelmesh modelmesh
COPY runtime_adapters runtime_adapters
RUN .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .

# A user who owns nothing but the data. By number, so that `runAsNonRoot` can be checked.
RUN mkdir /data && chown 10001:10001 /data
USER 10001:10001
VOLUME /data

# Inside a container loopback is nobody's: publish only the ports that should be reached.
ENV MM_BIND_HOST=0.0.0.0 MM_DATA_DIR=/data
# gRPC, REST, metrics, probes
EXPOSE 8033 8008 2112 8089

ENTRYPOINT ["/opt/modelmesh/.venv/bin/modelmesh", "serve"]
