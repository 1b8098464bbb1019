"""What a call is: the words that stand in `Call.kind`.

gRPC calls carry their full method path as kind. REST calls carry `METHOD /path` between the HTTP
wire and the face, and one of the short kinds below between the face and the runtime: the body is
unparsed in all of them, and whoever runs the model knows how to read it by its kind.
"""

from typing import Final

MODEL_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
MODEL_METADATA: Final = "/inference.GRPCInferenceService/ModelMetadata"

# REST towards the runtime. The body is the HTTP body as it came; V2's binary tensor extension needs
# the request header `inference-header-content-length`, which travels in the call's metadata.
V1_PREDICT: Final = "v1:predict"
V1_EXPLAIN: Final = "v1:explain"
V2_INFER: Final = "v2:infer"

LOAD_MODEL: Final = "/mmesh.ModelRuntime/loadModel"
UNLOAD_MODEL: Final = "/mmesh.ModelRuntime/unloadModel"
MODEL_SIZE: Final = "/mmesh.ModelRuntime/modelSize"
PREDICT_MODEL_SIZE: Final = "/mmesh.ModelRuntime/predictModelSize"
RUNTIME_STATUS: Final = "/mmesh.ModelRuntime/runtimeStatus"

# Metadata keys between daemon and runtime (the first two are ModelMesh's public names).
MODEL_ID: Final = "mm-model-id"
MODEL_ID_BIN: Final = "mm-model-id-bin"
BINARY_HEADER: Final = "inference-header-content-length"

# Beside the header above, on answers whose body is not JSON alone.
BINARY_BODY: Final = ("content-type", "application/octet-stream")
