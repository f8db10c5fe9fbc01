from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeviceKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_KIND_UNSPECIFIED: _ClassVar[DeviceKind]
    DEVICE_KIND_NVIDIA: _ClassVar[DeviceKind]
    DEVICE_KIND_SOFTWARE: _ClassVar[DeviceKind]

class TenantClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TENANT_CLASS_STANDARD: _ClassVar[TenantClass]
    TENANT_CLASS_LATENCY: _ClassVar[TenantClass]
    TENANT_CLASS_BEST_EFFORT: _ClassVar[TenantClass]

class Policy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_UNSPECIFIED: _ClassVar[Policy]
    POLICY_WARN: _ClassVar[Policy]
    POLICY_STOP: _ClassVar[Policy]
    POLICY_KILL: _ClassVar[Policy]

class ClientState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLIENT_STATE_UNSPECIFIED: _ClassVar[ClientState]
    CLIENT_STATE_LIVE: _ClassVar[ClientState]
    CLIENT_STATE_DRAINING: _ClassVar[ClientState]
DEVICE_KIND_UNSPECIFIED: DeviceKind
DEVICE_KIND_NVIDIA: DeviceKind
DEVICE_KIND_SOFTWARE: DeviceKind
TENANT_CLASS_STANDARD: TenantClass
TENANT_CLASS_LATENCY: TenantClass
TENANT_CLASS_BEST_EFFORT: TenantClass
POLICY_UNSPECIFIED: Policy
POLICY_WARN: Policy
POLICY_STOP: Policy
POLICY_KILL: Policy
CLIENT_STATE_UNSPECIFIED: ClientState
CLIENT_STATE_LIVE: ClientState
CLIENT_STATE_DRAINING: ClientState

class Device(_message.Message):
    __slots__ = ("index", "uuid", "name", "kind", "memory_bytes", "used_bytes", "leased_bytes", "overhead_bytes", "context_bytes", "context_source", "promised_bytes", "promised_ppm", "driver_version", "holder")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASED_BYTES_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_SOURCE_FIELD_NUMBER: _ClassVar[int]
    PROMISED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROMISED_PPM_FIELD_NUMBER: _ClassVar[int]
    DRIVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    index: int
    uuid: str
    name: str
    kind: DeviceKind
    memory_bytes: int
    used_bytes: int
    leased_bytes: int
    overhead_bytes: int
    context_bytes: int
    context_source: str
    promised_bytes: int
    promised_ppm: int
    driver_version: str
    holder: int
    def __init__(self, index: _Optional[int] = ..., uuid: _Optional[str] = ..., name: _Optional[str] = ..., kind: _Optional[_Union[DeviceKind, str]] = ..., memory_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., leased_bytes: _Optional[int] = ..., overhead_bytes: _Optional[int] = ..., context_bytes: _Optional[int] = ..., context_source: _Optional[str] = ..., promised_bytes: _Optional[int] = ..., promised_ppm: _Optional[int] = ..., driver_version: _Optional[str] = ..., holder: _Optional[int] = ...) -> None: ...

class Client(_message.Message):
    __slots__ = ("client_id", "pid", "state", "program", "leased_bytes", "overhead_bytes")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    LEASED_BYTES_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    pid: int
    state: ClientState
    program: str
    leased_bytes: int
    overhead_bytes: int
    def __init__(self, client_id: _Optional[int] = ..., pid: _Optional[int] = ..., state: _Optional[_Union[ClientState, str]] = ..., program: _Optional[str] = ..., leased_bytes: _Optional[int] = ..., overhead_bytes: _Optional[int] = ...) -> None: ...

class Tenant(_message.Message):
    __slots__ = ("tenant_id", "name", "uid", "user", "root_pid", "root_alive", "device_uuid", "mem_limit_bytes", "share_ppm", "limit_ppm", "tenant_class", "policy", "created_s", "leased_bytes", "peak_bytes", "overhead_bytes", "used_ns", "copy_ns", "launches", "wait_ns", "wants", "denials", "used_ratio", "window_s", "clients", "grant_dir")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    ROOT_PID_FIELD_NUMBER: _ClassVar[int]
    ROOT_ALIVE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_UUID_FIELD_NUMBER: _ClassVar[int]
    MEM_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARE_PPM_FIELD_NUMBER: _ClassVar[int]
    LIMIT_PPM_FIELD_NUMBER: _ClassVar[int]
    TENANT_CLASS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    CREATED_S_FIELD_NUMBER: _ClassVar[int]
    LEASED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_NS_FIELD_NUMBER: _ClassVar[int]
    COPY_NS_FIELD_NUMBER: _ClassVar[int]
    LAUNCHES_FIELD_NUMBER: _ClassVar[int]
    WAIT_NS_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    DENIALS_FIELD_NUMBER: _ClassVar[int]
    USED_RATIO_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    GRANT_DIR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: int
    name: str
    uid: int
    user: str
    root_pid: int
    root_alive: bool
    device_uuid: str
    mem_limit_bytes: int
    share_ppm: int
    limit_ppm: int
    tenant_class: TenantClass
    policy: Policy
    created_s: float
    leased_bytes: int
    peak_bytes: int
    overhead_bytes: int
    used_ns: int
    copy_ns: int
    launches: int
    wait_ns: int
    wants: bool
    denials: int
    used_ratio: float
    window_s: float
    clients: _containers.RepeatedCompositeFieldContainer[Client]
    grant_dir: str
    def __init__(self, tenant_id: _Optional[int] = ..., name: _Optional[str] = ..., uid: _Optional[int] = ..., user: _Optional[str] = ..., root_pid: _Optional[int] = ..., root_alive: bool = ..., device_uuid: _Optional[str] = ..., mem_limit_bytes: _Optional[int] = ..., share_ppm: _Optional[int] = ..., limit_ppm: _Optional[int] = ..., tenant_class: _Optional[_Union[TenantClass, str]] = ..., policy: _Optional[_Union[Policy, str]] = ..., created_s: _Optional[float] = ..., leased_bytes: _Optional[int] = ..., peak_bytes: _Optional[int] = ..., overhead_bytes: _Optional[int] = ..., used_ns: _Optional[int] = ..., copy_ns: _Optional[int] = ..., launches: _Optional[int] = ..., wait_ns: _Optional[int] = ..., wants: bool = ..., denials: _Optional[int] = ..., used_ratio: _Optional[float] = ..., window_s: _Optional[float] = ..., clients: _Optional[_Iterable[_Union[Client, _Mapping]]] = ..., grant_dir: _Optional[str] = ...) -> None: ...

class Uncovered(_message.Message):
    __slots__ = ("pid", "name", "user", "device_uuid", "mem_bytes", "tenant", "evidence", "since_s", "action")
    PID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_UUID_FIELD_NUMBER: _ClassVar[int]
    MEM_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    pid: int
    name: str
    user: str
    device_uuid: str
    mem_bytes: int
    tenant: str
    evidence: str
    since_s: float
    action: str
    def __init__(self, pid: _Optional[int] = ..., name: _Optional[str] = ..., user: _Optional[str] = ..., device_uuid: _Optional[str] = ..., mem_bytes: _Optional[int] = ..., tenant: _Optional[str] = ..., evidence: _Optional[str] = ..., since_s: _Optional[float] = ..., action: _Optional[str] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoReply(_message.Message):
    __slots__ = ("version", "pid", "uid", "run_dir", "arbiter_pid", "log_path", "started_s", "cuda_path", "nvml_path", "kind", "uncovered_total", "arbiter_restarts", "native_dir")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    RUN_DIR_FIELD_NUMBER: _ClassVar[int]
    ARBITER_PID_FIELD_NUMBER: _ClassVar[int]
    LOG_PATH_FIELD_NUMBER: _ClassVar[int]
    STARTED_S_FIELD_NUMBER: _ClassVar[int]
    CUDA_PATH_FIELD_NUMBER: _ClassVar[int]
    NVML_PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    UNCOVERED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ARBITER_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    NATIVE_DIR_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    uid: int
    run_dir: str
    arbiter_pid: int
    log_path: str
    started_s: float
    cuda_path: str
    nvml_path: str
    kind: DeviceKind
    uncovered_total: int
    arbiter_restarts: int
    native_dir: str
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ..., uid: _Optional[int] = ..., run_dir: _Optional[str] = ..., arbiter_pid: _Optional[int] = ..., log_path: _Optional[str] = ..., started_s: _Optional[float] = ..., cuda_path: _Optional[str] = ..., nvml_path: _Optional[str] = ..., kind: _Optional[_Union[DeviceKind, str]] = ..., uncovered_total: _Optional[int] = ..., arbiter_restarts: _Optional[int] = ..., native_dir: _Optional[str] = ...) -> None: ...

class GetStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStateReply(_message.Message):
    __slots__ = ("devices", "tenants", "uncovered", "now_s")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    UNCOVERED_FIELD_NUMBER: _ClassVar[int]
    NOW_S_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    tenants: _containers.RepeatedCompositeFieldContainer[Tenant]
    uncovered: _containers.RepeatedCompositeFieldContainer[Uncovered]
    now_s: float
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., tenants: _Optional[_Iterable[_Union[Tenant, _Mapping]]] = ..., uncovered: _Optional[_Iterable[_Union[Uncovered, _Mapping]]] = ..., now_s: _Optional[float] = ...) -> None: ...

class CreateTenantRequest(_message.Message):
    __slots__ = ("name", "gpu", "mem_limit_bytes", "share_ppm", "limit_ppm", "tenant_class", "policy", "root_pid", "grant_dir", "ticket", "program")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GPU_FIELD_NUMBER: _ClassVar[int]
    MEM_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARE_PPM_FIELD_NUMBER: _ClassVar[int]
    LIMIT_PPM_FIELD_NUMBER: _ClassVar[int]
    TENANT_CLASS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ROOT_PID_FIELD_NUMBER: _ClassVar[int]
    GRANT_DIR_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    name: str
    gpu: str
    mem_limit_bytes: int
    share_ppm: int
    limit_ppm: int
    tenant_class: TenantClass
    policy: Policy
    root_pid: int
    grant_dir: str
    ticket: str
    program: str
    def __init__(self, name: _Optional[str] = ..., gpu: _Optional[str] = ..., mem_limit_bytes: _Optional[int] = ..., share_ppm: _Optional[int] = ..., limit_ppm: _Optional[int] = ..., tenant_class: _Optional[_Union[TenantClass, str]] = ..., policy: _Optional[_Union[Policy, str]] = ..., root_pid: _Optional[int] = ..., grant_dir: _Optional[str] = ..., ticket: _Optional[str] = ..., program: _Optional[str] = ...) -> None: ...

class CreateTenantReply(_message.Message):
    __slots__ = ("tenant", "device", "env", "device_count")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    DEVICE_COUNT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    device: Device
    env: _containers.ScalarMap[str, str]
    device_count: int
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ..., device: _Optional[_Union[Device, _Mapping]] = ..., env: _Optional[_Mapping[str, str]] = ..., device_count: _Optional[int] = ...) -> None: ...

class SetTenantRequest(_message.Message):
    __slots__ = ("name", "mem_limit_bytes", "share_ppm", "limit_ppm", "tenant_class")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEM_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARE_PPM_FIELD_NUMBER: _ClassVar[int]
    LIMIT_PPM_FIELD_NUMBER: _ClassVar[int]
    TENANT_CLASS_FIELD_NUMBER: _ClassVar[int]
    name: str
    mem_limit_bytes: int
    share_ppm: int
    limit_ppm: int
    tenant_class: TenantClass
    def __init__(self, name: _Optional[str] = ..., mem_limit_bytes: _Optional[int] = ..., share_ppm: _Optional[int] = ..., limit_ppm: _Optional[int] = ..., tenant_class: _Optional[_Union[TenantClass, str]] = ...) -> None: ...

class SetTenantReply(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class RemoveTenantRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RemoveTenantReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("with_arbiter",)
    WITH_ARBITER_FIELD_NUMBER: _ClassVar[int]
    with_arbiter: bool
    def __init__(self, with_arbiter: bool = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
