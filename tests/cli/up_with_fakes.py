"""`modelmesh up`, but with fake daemons: DIR BASE_PORT PODS [ETCD_URL]."""

import sys
from pathlib import Path

from modelmesh.cli.exits import BadUsage, CommandFailed, line_of
from modelmesh.cli.up.command import Wanted, run

FAKE = str(Path(__file__).with_name("fake_daemon.py"))

if __name__ == "__main__":
    folder, base_port, pods, *etcd = sys.argv[1:]
    wanted = Wanted(
        int(pods), Path(folder), int(base_port), "".join(etcd), daemon=(sys.executable, FAKE)
    )
    try:
        sys.exit(run(wanted))
    except CommandFailed as error:
        print(line_of(error), file=sys.stderr)
        sys.exit(error.status)
    except BadUsage as error:
        print(error, file=sys.stderr)
        sys.exit(2)
