"""Our protos against what ModelMesh, KServe and Triton put on the wire.

The tables are written from their documentation, not from our files: a renumbered field would pass
every other test here, since both ends of those speak our own numbers.
"""

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from modelmesh.pb import inference_pb2, model_mesh_pb2, model_runtime_pb2

# Message: its fields as "number name type", `*` for a repeated one, `map` for a map.
INFERENCE = {
    "ServerLiveResponse": "1 live bool",
    "ServerReadyResponse": "1 ready bool",
    "ModelReadyRequest": "1 name string, 2 version string",
    "ModelReadyResponse": "1 ready bool",
    "ServerMetadataResponse": "1 name string, 2 version string, 3 extensions *string",
    "ModelMetadataRequest": "1 name string, 2 version string",
    "ModelMetadataResponse": "1 name string, 2 versions *string, 3 platform string, "
    "4 inputs *TensorMetadata, 5 outputs *TensorMetadata, 6 properties map",
    "ModelMetadataResponse.TensorMetadata": "1 name string, 2 datatype string, 3 shape *int64",
    "InferParameter": "1 bool_param bool, 2 int64_param int64, 3 string_param string, "
    "4 double_param double, 5 uint64_param uint64",
    "InferTensorContents": "1 bool_contents *bool, 2 int_contents *int32, 3 int64_contents *int64, "
    "4 uint_contents *uint32, 5 uint64_contents *uint64, 6 fp32_contents *float, "
    "7 fp64_contents *double, 8 bytes_contents *bytes",
    "ModelInferRequest": "1 model_name string, 2 model_version string, 3 id string, "
    "4 parameters map, 5 inputs *InferInputTensor, 6 outputs *InferRequestedOutputTensor, "
    "7 raw_input_contents *bytes",
    "ModelInferRequest.InferInputTensor": "1 name string, 2 datatype string, 3 shape *int64, "
    "4 parameters map, 5 contents InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": "1 name string, 2 parameters map",
    "ModelInferResponse": "1 model_name string, 2 model_version string, 3 id string, "
    "4 parameters map, 5 outputs *InferOutputTensor, 6 raw_output_contents *bytes",
    "ModelInferResponse.InferOutputTensor": "1 name string, 2 datatype string, 3 shape *int64, "
    "4 parameters map, 5 contents InferTensorContents",
    "RepositoryIndexRequest": "1 repository_name string, 2 ready bool",
    "RepositoryIndexResponse": "1 models *ModelIndex",
    "RepositoryIndexResponse.ModelIndex": "1 name string, 2 version string, 3 state string, "
    "4 reason string",
    # Triton's numbers; KServe's field 1 is the model's name, and its answers have fields.
    "RepositoryModelLoadRequest": "1 repository_name string, 2 model_name string, 3 parameters map",
    "RepositoryModelLoadResponse": "1 model_name string, 2 isLoaded bool",
    "RepositoryModelUnloadRequest": "1 repository_name string, 2 model_name string, "
    "3 parameters map",
    "RepositoryModelUnloadResponse": "1 model_name string, 2 isUnloaded bool",
}
MANAGEMENT = {
    "ModelInfo": "1 type string, 2 path string, 3 key string",
    "RegisterModelRequest": "1 modelId string, 2 modelInfo ModelInfo, 3 loadNow bool, 4 sync bool, "
    "5 lastUsedTime uint64",
    "UnregisterModelRequest": "1 modelId string",
    "GetStatusRequest": "1 modelId string",
    "EnsureLoadedRequest": "1 modelId string, 2 lastUsedTime uint64, 4 sync bool",
    "ModelStatusInfo": "1 status ModelStatus, 2 errors *string, 3 modelCopyInfos *ModelCopyInfo",
    "ModelStatusInfo.ModelCopyInfo": "1 location string, 2 copyStatus ModelStatus, 3 time uint64",
    "SetVModelRequest": "1 vModelId string, 2 targetModelId string, 3 updateOnly bool, "
    "4 modelInfo ModelInfo, 5 autoDeleteTargetModel bool, 6 loadNow bool, 7 force bool, "
    "8 sync bool, 9 expectedTargetModelId string, 10 owner string",
    "DeleteVModelRequest": "1 vModelId string, 2 owner string",
    "GetVModelStatusRequest": "1 vModelId string, 2 owner string",
    "VModelStatusInfo": "1 status VModelStatus, 2 activeModelId string, 3 targetModelId string, "
    "4 activeModelStatus ModelStatusInfo, 5 targetModelStatus ModelStatusInfo, 6 owner string",
}
RUNTIME = {
    "LoadModelRequest": "1 modelId string, 2 modelType string, 3 modelPath string, "
    "4 modelKey string",
    "LoadModelResponse": "1 sizeInBytes uint64, 2 maxConcurrency uint32",
    "UnloadModelRequest": "1 modelId string",
    "PredictModelSizeRequest": "1 modelId string, 2 modelType string, 3 modelPath string, "
    "4 modelKey string",
    "PredictModelSizeResponse": "1 sizeInBytes uint64",
    "ModelSizeRequest": "1 modelId string",
    "ModelSizeResponse": "1 sizeInBytes uint64",
    "RuntimeStatusResponse": "1 status Status, 2 capacityInBytes uint64, "
    "3 maxLoadingConcurrency uint32, 4 modelLoadingTimeoutMs uint32, "
    "5 defaultModelSizeInBytes uint64, 6 runtimeVersion string, 7 numericRuntimeVersion uint64, "
    "8 methodInfos map, 9 limitModelConcurrency bool, 10 allowAnyMethod bool",
    "RuntimeStatusResponse.MethodInfo": "1 idInjectionPath *uint32",
}
SERVICES = {
    "inference.GRPCInferenceService": "ServerLive ServerReady ModelReady ServerMetadata "
    "ModelMetadata ModelInfer RepositoryIndex RepositoryModelLoad RepositoryModelUnload",
    "mmesh.ModelMesh": "registerModel unregisterModel getModelStatus ensureLoaded setVModel "
    "deleteVModel getVModelStatus",
    "mmesh.ModelRuntime": "loadModel unloadModel predictModelSize modelSize runtimeStatus",
}
FILES = [inference_pb2.DESCRIPTOR, model_mesh_pb2.DESCRIPTOR, model_runtime_pb2.DESCRIPTOR]
TYPES = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def _described(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    what = named.name if named else TYPES[field.type]
    if field.message_type and field.message_type.GetOptions().map_entry:
        return f"{field.number} {field.name} map"
    return f"{field.number} {field.name} {'*' if field.is_repeated else ''}{what}"


def _messages(within: FileDescriptor | Descriptor, before: str = "") -> Iterator[tuple[str, str]]:
    nested = (
        within.message_types_by_name
        if isinstance(within, FileDescriptor)
        else within.nested_types_by_name
    )
    for name, message in nested.items():
        if not message.GetOptions().map_entry:
            yield before + name, ", ".join(map(_described, message.fields))
            yield from _messages(message, f"{before}{name}.")


@pytest.mark.parametrize(
    ("file", "expected"),
    [*zip(FILES, (INFERENCE, MANAGEMENT, RUNTIME), strict=True)],
    ids=["inference", "management", "runtime"],
)
def test_fields_have_the_names_numbers_and_types_of_the_original(
    file: FileDescriptor, expected: dict[str, str]
) -> None:
    found = dict(_messages(file))
    assert {name: found.get(name) for name in expected} == expected
    # What is not in the tables is empty, or a value of Triton's load parameters.
    beyond = {name: fields for name, fields in found.items() if name not in expected and fields}
    assert set(beyond) <= {"ModelRepositoryParameter"}


def test_services_have_the_names_of_the_original_and_every_method_is_unary() -> None:
    services = [service for file in FILES for service in file.services_by_name.values()]
    assert {each.full_name: " ".join(each.methods_by_name) for each in services} == SERVICES
    methods = [method for service in services for method in service.methods]
    assert not any(method.client_streaming or method.server_streaming for method in methods)


def test_states_have_the_numbers_of_the_original() -> None:
    status = model_mesh_pb2.ModelStatusInfo.ModelStatus.items()
    assert dict(status) == {
        "NOT_FOUND": 0, "NOT_LOADED": 1, "LOADING": 2, "LOADED": 3, "LOADING_FAILED": 4,
        "UNKNOWN": 5,
    }  # fmt: skip
    vmodel = model_mesh_pb2.VModelStatusInfo.VModelStatus.items()
    assert dict(vmodel) == {
        "NOT_FOUND": 0, "DEFINED": 1, "TRANSITIONING": 2, "TRANSITION_FAILED": 3, "UNKNOWN": 5,
    }  # fmt: skip
    runtime = model_runtime_pb2.RuntimeStatusResponse.Status.items()
    assert dict(runtime) == {"STARTING": 0, "READY": 1, "FAILING": 2}


def test_no_c_extension_is_missing() -> None:
    """In pure Python the same messages would cost hundreds of times as much."""
    from google.protobuf.internal import api_implementation

    assert api_implementation.Type() == "upb"
