from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("model_id", "type", "path", "key", "state", "size_bytes", "last_used_ms", "tier", "reason", "warnings", "in_use", "instances", "min_copies", "max_copies", "pinned", "priority")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_MS_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    MIN_COPIES_FIELD_NUMBER: _ClassVar[int]
    MAX_COPIES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    type: str
    path: str
    key: str
    state: str
    size_bytes: int
    last_used_ms: int
    tier: str
    reason: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    in_use: int
    instances: _containers.RepeatedScalarFieldContainer[str]
    min_copies: int
    max_copies: int
    pinned: bool
    priority: int
    def __init__(self, model_id: _Optional[str] = ..., type: _Optional[str] = ..., path: _Optional[str] = ..., key: _Optional[str] = ..., state: _Optional[str] = ..., size_bytes: _Optional[int] = ..., last_used_ms: _Optional[int] = ..., tier: _Optional[str] = ..., reason: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., in_use: _Optional[int] = ..., instances: _Optional[_Iterable[str]] = ..., min_copies: _Optional[int] = ..., max_copies: _Optional[int] = ..., pinned: _Optional[bool] = ..., priority: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("prefix", "page_size", "page_token")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    page_size: int
    page_token: str
    def __init__(self, prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RegisterModelsRequest(_message.Message):
    __slots__ = ("models",)
    class Item(_message.Message):
        __slots__ = ("model_id", "type", "path", "key")
        MODEL_ID_FIELD_NUMBER: _ClassVar[int]
        TYPE_FIELD_NUMBER: _ClassVar[int]
        PATH_FIELD_NUMBER: _ClassVar[int]
        KEY_FIELD_NUMBER: _ClassVar[int]
        model_id: str
        type: str
        path: str
        key: str
        def __init__(self, model_id: _Optional[str] = ..., type: _Optional[str] = ..., path: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[RegisterModelsRequest.Item]
    def __init__(self, models: _Optional[_Iterable[_Union[RegisterModelsRequest.Item, _Mapping]]] = ...) -> None: ...

class RegisterModelsResponse(_message.Message):
    __slots__ = ("results",)
    class Result(_message.Message):
        __slots__ = ("model_id", "error", "code")
        MODEL_ID_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        CODE_FIELD_NUMBER: _ClassVar[int]
        model_id: str
        error: str
        code: str
        def __init__(self, model_id: _Optional[str] = ..., error: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RegisterModelsResponse.Result]
    def __init__(self, results: _Optional[_Iterable[_Union[RegisterModelsResponse.Result, _Mapping]]] = ...) -> None: ...

class ExplainModelRequest(_message.Message):
    __slots__ = ("model_id",)
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    def __init__(self, model_id: _Optional[str] = ...) -> None: ...

class ExplainModelResponse(_message.Message):
    __slots__ = ("model_id", "state", "decision", "reason", "eviction_order", "capacity_bytes", "reserved_bytes", "debt_bytes")
    class Candidate(_message.Message):
        __slots__ = ("model_id", "worth", "size_bytes", "verdict")
        MODEL_ID_FIELD_NUMBER: _ClassVar[int]
        WORTH_FIELD_NUMBER: _ClassVar[int]
        SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
        VERDICT_FIELD_NUMBER: _ClassVar[int]
        model_id: str
        worth: float
        size_bytes: int
        verdict: str
        def __init__(self, model_id: _Optional[str] = ..., worth: _Optional[float] = ..., size_bytes: _Optional[int] = ..., verdict: _Optional[str] = ...) -> None: ...
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EVICTION_ORDER_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEBT_BYTES_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    state: str
    decision: str
    reason: str
    eviction_order: _containers.RepeatedCompositeFieldContainer[ExplainModelResponse.Candidate]
    capacity_bytes: int
    reserved_bytes: int
    debt_bytes: int
    def __init__(self, model_id: _Optional[str] = ..., state: _Optional[str] = ..., decision: _Optional[str] = ..., reason: _Optional[str] = ..., eviction_order: _Optional[_Iterable[_Union[ExplainModelResponse.Candidate, _Mapping]]] = ..., capacity_bytes: _Optional[int] = ..., reserved_bytes: _Optional[int] = ..., debt_bytes: _Optional[int] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("model_id",)
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    def __init__(self, model_id: _Optional[str] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ("was_loaded",)
    WAS_LOADED_FIELD_NUMBER: _ClassVar[int]
    was_loaded: bool
    def __init__(self, was_loaded: _Optional[bool] = ...) -> None: ...

class SetModelPolicyRequest(_message.Message):
    __slots__ = ("model_id", "min_copies", "max_copies", "pinned", "priority")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_COPIES_FIELD_NUMBER: _ClassVar[int]
    MAX_COPIES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    min_copies: int
    max_copies: int
    pinned: bool
    priority: int
    def __init__(self, model_id: _Optional[str] = ..., min_copies: _Optional[int] = ..., max_copies: _Optional[int] = ..., pinned: _Optional[bool] = ..., priority: _Optional[int] = ...) -> None: ...

class SetModelPolicyResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class WatchModelsRequest(_message.Message):
    __slots__ = ("prefix",)
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    def __init__(self, prefix: _Optional[str] = ...) -> None: ...

class ModelEvent(_message.Message):
    __slots__ = ("kind", "model")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        WATCHING: _ClassVar[ModelEvent.Kind]
        CREATED: _ClassVar[ModelEvent.Kind]
        CHANGED: _ClassVar[ModelEvent.Kind]
        GONE: _ClassVar[ModelEvent.Kind]
    WATCHING: ModelEvent.Kind
    CREATED: ModelEvent.Kind
    CHANGED: ModelEvent.Kind
    GONE: ModelEvent.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    kind: ModelEvent.Kind
    model: Model
    def __init__(self, kind: _Optional[_Union[ModelEvent.Kind, str]] = ..., model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class ListInstancesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListInstancesResponse(_message.Message):
    __slots__ = ("instances",)
    class Instance(_message.Message):
        __slots__ = ("instance_id", "address", "zone", "location", "labels", "capacity_bytes", "used_bytes", "models", "loading", "calls_per_minute", "draining", "health")
        INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        ZONE_FIELD_NUMBER: _ClassVar[int]
        LOCATION_FIELD_NUMBER: _ClassVar[int]
        LABELS_FIELD_NUMBER: _ClassVar[int]
        CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
        USED_BYTES_FIELD_NUMBER: _ClassVar[int]
        MODELS_FIELD_NUMBER: _ClassVar[int]
        LOADING_FIELD_NUMBER: _ClassVar[int]
        CALLS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
        DRAINING_FIELD_NUMBER: _ClassVar[int]
        HEALTH_FIELD_NUMBER: _ClassVar[int]
        instance_id: str
        address: str
        zone: str
        location: str
        labels: _containers.RepeatedScalarFieldContainer[str]
        capacity_bytes: int
        used_bytes: int
        models: int
        loading: int
        calls_per_minute: int
        draining: bool
        health: str
        def __init__(self, instance_id: _Optional[str] = ..., address: _Optional[str] = ..., zone: _Optional[str] = ..., location: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., capacity_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., models: _Optional[int] = ..., loading: _Optional[int] = ..., calls_per_minute: _Optional[int] = ..., draining: _Optional[bool] = ..., health: _Optional[str] = ...) -> None: ...
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedCompositeFieldContainer[ListInstancesResponse.Instance]
    def __init__(self, instances: _Optional[_Iterable[_Union[ListInstancesResponse.Instance, _Mapping]]] = ...) -> None: ...

class AcceptRestoreRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AcceptRestoreResponse(_message.Message):
    __slots__ = ("dropped",)
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    dropped: int
    def __init__(self, dropped: _Optional[int] = ...) -> None: ...

class VModel(_message.Message):
    __slots__ = ("vmodel_id", "active_model_id", "target_model_id", "owner", "state", "reason")
    VMODEL_ID_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    vmodel_id: str
    active_model_id: str
    target_model_id: str
    owner: str
    state: str
    reason: str
    def __init__(self, vmodel_id: _Optional[str] = ..., active_model_id: _Optional[str] = ..., target_model_id: _Optional[str] = ..., owner: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListVModelsRequest(_message.Message):
    __slots__ = ("prefix", "page_size", "page_token")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    page_size: int
    page_token: str
    def __init__(self, prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListVModelsResponse(_message.Message):
    __slots__ = ("vmodels", "next_page_token")
    VMODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    vmodels: _containers.RepeatedCompositeFieldContainer[VModel]
    next_page_token: str
    def __init__(self, vmodels: _Optional[_Iterable[_Union[VModel, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
