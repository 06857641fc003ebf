"""NCCL variables that describe a system: fit to be set for good.

The class "System configuration" of NCCL's user guide, chapter Environment Variables (NCCL 2.32), and
NCCL_HOSTID, which only NCCL's source names.
"""

from harness.plan.nccl_variable import Variable

_LEVELS = ("VERSION", "WARN", "ATTN", "INFO", "ABORT", "TRACE", "ALL")
# fmt: off
_SUBSYSTEMS = (
    "INIT", "COLL", "P2P", "SHM", "NET", "GRAPH", "TUNING", "ENV", "ALLOC", "ALLOC_HOST", "CALL", "PROXY", "NVLS",
    "BOOTSTRAP", "REG", "PROFILE", "RAS", "DESTROY", "ALL",
)
# fmt: on
_NAMES = r"\^?=?[^,;^=\s]+(,[^,;^=\s]+)*"
_CIDR = r"[0-9a-fA-F.:]+/\d{1,3}"

SYSTEM = (
    # Sockets and start-up
    Variable(
        "NCCL_SOCKET_IFNAME",
        "text",
        "",
        "Which network interfaces carry start-up and socket traffic; prefixes, exact after =, excluded after ^.",
        pattern=_NAMES,
        example="=eth0,eth1 or ^docker",
    ),
    Variable("NCCL_SOCKET_FAMILY", "enum", "", "IPv4 or IPv6 only.", choices=("AF_INET", "AF_INET6")),
    Variable("NCCL_SOCKET_MAGIC", "int", "", "Number that keeps the sockets of different jobs apart.", least=0),
    Variable("NCCL_SOCKET_RETRY_CNT", "int", "2.24", "How often a refused or timed-out connection is tried.", least=1),
    Variable(
        "NCCL_SOCKET_RETRY_SLEEP_MSEC", "int", "2.24", "First wait between these tries; later ones grow.", least=1
    ),
    Variable(
        "NCCL_SOCKET_POLL_TIMEOUT_MSEC", "int", "2.28", "How long to sleep in poll during start-up; 0 spins.", least=0
    ),
    Variable(
        "NCCL_PSK",
        "text",
        "",
        "Shared key of at least 32 characters that turns on TLS for host traffic.",
        pattern=r".{32,}",
        example="a key of 32 characters or more",
        secret=True,
    ),
    Variable(
        "NCCL_SOCKET_NTHREADS",
        "int",
        "2.4.8",
        "Helper threads for each socket connection; times NCCL_NSOCKS_PERTHREAD at most 64.",
        least=1,
        most=16,
        hazard="on AWS leave it alone: NCCL chooses 2 there",
    ),
    Variable("NCCL_NSOCKS_PERTHREAD", "int", "2.4.8", "Sockets that each helper thread opens.", least=1, most=64),
    Variable("NCCL_UID_STAGGER_THRESHOLD", "int", "2.23", "Ranks above which start-up messages are spread.", least=1),
    Variable("NCCL_UID_STAGGER_RATE", "int", "2.23", "Start-up messages per second when they are spread.", least=1),
    Variable("NCCL_OOB_NET_ENABLE", "bool", "2.23", "1 sends start-up exchanges over the fast network."),
    Variable(
        "NCCL_OOB_NET_IFNAME",
        "text",
        "2.23",
        "Which device carries these exchanges.",
        pattern=_NAMES,
        example="=mlx5_1",
    ),
    # InfiniBand and RoCE
    Variable(
        "NCCL_CROSS_NIC",
        "int",
        "",
        "Whether a ring may change to another NIC between nodes: 0 never, 1 yes, 2 where it pays.",
        least=0,
        most=2,
    ),
    Variable(
        "NCCL_IB_HCA",
        "text",
        "",
        "Which RDMA adapters (and ports, rails, planes) to use; exact after =, excluded after ^.",
        pattern=_NAMES,
        example="=mlx5_0:1,mlx5_1:1",
        hazard="without = names are prefixes, and mlx5_1 also takes mlx5_10 to mlx5_19",
        hazard_when=r"^\^?[^\^=]",
    ),
    Variable(
        "NCCL_IB_RAIL_POLICY",
        "enum",
        "2.30.5",
        "How adapters are given rails and planes.",
        choices=("NONE", "CX9", "CX9:FLIP", "CX9:ALT", "CX9:BLOCK"),
    ),
    Variable(
        "NCCL_IB_TIMEOUT",
        "int",
        "",
        "Acknowledgement timeout of a queue pair, 4.096 µs times 2 to this power.",
        least=0,
        most=31,
        hazard="0 waits for ever, so a dead link shows as a hang",
        hazard_when=r"^0+$",
    ),
    Variable("NCCL_IB_RETRY_CNT", "int", "2.1.15", "Retries of that timeout before an error.", least=0, most=7),
    Variable("NCCL_IB_GID_INDEX", "int", "2.1.4", "GID table entry for RoCE; -1 lets NCCL choose.", least=-1),
    Variable(
        "NCCL_IB_ADDR_FAMILY",
        "enum",
        "2.21",
        "Address family of the GID that NCCL chooses.",
        choices=("AF_INET", "AF_INET6"),
    ),
    Variable(
        "NCCL_IB_ADDR_RANGE",
        "text",
        "2.21",
        "Addresses among which NCCL chooses a GID.",
        pattern=_CIDR,
        example="10.0.0.0/8",
    ),
    Variable("NCCL_IB_ROCE_VERSION_NUM", "int", "2.21", "RoCE version of that GID.", least=1, most=2),
    Variable("NCCL_IB_PKEY", "int", "2.1.4", "Partition key, as an index into the port's table.", least=0),
    Variable("NCCL_IB_PKEY_VALUE", "int", "2.31", "Partition key by value; -1 goes by index.", least=-1, most=0xFFFF),
    Variable("NCCL_IB_SL", "int", "2.1.4", "InfiniBand service level.", least=0, most=15),
    Variable("NCCL_IB_TC", "int", "2.1.15", "Traffic class of data messages.", least=0, most=255),
    Variable("NCCL_IB_FIFO_TC", "int", "2.22.3", "Traffic class of control messages.", least=0, most=255),
    Variable(
        "NCCL_IB_RETURN_ASYNC_EVENTS", "bool", "2.23", "1 stops with an error at a fatal adapter event; 0 goes on."
    ),
    Variable(
        "NCCL_IB_EVENT_BASED_LB", "bool", "2.31", "1 splits messages over merged adapters by their current speed."
    ),
    # Networks and plugins
    Variable("NCCL_NET", "text", "2.10", "The network to use or fail: IB, Socket, or a plugin's name.", example="IB"),
    Variable(
        "NCCL_NET_PLUGIN", "text", "2.11", "Network plugin: library, suffix of libnccl-net-, or none.", example="ofi"
    ),
    Variable("NCCL_GIN_PLUGIN", "text", "2.29.3", "Plugins for networking started by the GPU.", example="none"),
    Variable(
        "NCCL_RMA_PLUGIN", "text", "2.30.7", "Plugins for one-sided operations started by the host.", example="none"
    ),
    Variable("NCCL_TUNER_PLUGIN", "text", "", "Plugin that chooses algorithm and protocol.", example="none"),
    Variable("NCCL_PROFILER_PLUGIN", "text", "", "Plugin that receives NCCL's own events.", example="none"),
    Variable(
        "NCCL_ENV_PLUGIN",
        "text",
        "2.28",
        "Plugin that answers NCCL's questions about its environment.",
        example="none",
        hazard="a plugin can change what NCCL takes for its environment, unseen by the record",
        hazard_when=r"^(?!none$)",
    ),
    Variable(
        "NCCL_CONF_FILE",
        "text",
        "2.23",
        "File with further variables.",
        pattern=r"[^~].*",
        example="/shared/nccl.conf",
        hazard="the file's content is an input that a comparison of variables does not show",
    ),
    Variable("NCCL_COLLNET_ENABLE", "bool", "2.6", "1 uses a plugin for reductions in the network's switches."),
    Variable("NCCL_COLLNET_NODE_THRESHOLD", "int", "2.9.9", "Nodes below which those are not used.", least=0),
    Variable("NCCL_HOSTID", "text", "", "Name that decides which ranks are on one host.", example="node-17"),
    # Placement and policy
    Variable(
        "NCCL_IGNORE_CPU_AFFINITY", "bool", "2.4.6", "1 places NCCL's threads by the GPU and not by the launcher."
    ),
    Variable(
        "NCCL_CTA_POLICY",
        "text",
        "2.27",
        "Aim in choosing the number of blocks: DEFAULT, EFFICIENCY, ZERO, joined with |.",
        pattern=r"[012]|(DEFAULT|EFFICIENCY|ZERO)(\|(DEFAULT|EFFICIENCY|ZERO))*",
        example="EFFICIENCY",
    ),
    Variable(
        "NCCL_NETDEVS_POLICY",
        "text",
        "2.28",
        "How many network devices a GPU takes.",
        pattern=r"AUTO|ALL|MAX:[1-9]\d*",
        example="MAX:2 or ALL",
    ),
    Variable(
        "NCCL_MULTI_RANK_GPU_ENABLE",
        "bool",
        "2.30",
        "1 lets several ranks share one GPU.",
        hazard="ranks that share a GPU can exhaust it and hang; it is experimental",
        hazard_when="1",
    ),
    Variable(
        "NCCL_TOPO_FILE", "text", "2.6", "XML topology of one host to start from.", example="/shared/topology.xml"
    ),
    Variable("NCCL_TOPO_DUMP_FILE", "text", "2.6", "Where to write the topology found.", example="topology.xml"),
    Variable("NCCL_SET_THREAD_NAME", "bool", "2.12", "1 names NCCL's threads, for debuggers."),
    # Logs
    Variable(
        "NCCL_DEBUG",
        "enum",
        "",
        "How much NCCL logs.",
        choices=("VERSION", "WARN", "ATTN", "INFO", "TRACE"),
        hazard="below INFO the log lacks the transport, which the record takes from it",
        hazard_when="VERSION|WARN|ATTN",
    ),
    Variable("NCCL_DEBUG_LEVELS", "list", "2.32", "Levels to log beside those of NCCL_DEBUG.", choices=_LEVELS),
    Variable(
        "NCCL_DEBUG_SUBSYS",
        "list",
        "2.3.4",
        "Parts of NCCL that log at INFO.",
        choices=_SUBSYSTEMS,
        hazard="this part logs at every collective and slows what is measured",
        hazard_when=r"(^|,)(COLL|TUNING|CALL|PROXY|ALL)(,|$)",
    ),
    Variable("NCCL_DEBUG_FILE", "text", "2.2.12", "Where the log goes; the harness sets it.", example="nccl.%h.%p.log"),
    Variable(
        "NCCL_DEBUG_TIMESTAMP_FORMAT",
        "text",
        "2.26",
        "strftime format of the log's timestamps; empty for none.",
        pattern=".*",
        example="[%F %T.%6f]",
    ),
    Variable("NCCL_DEBUG_TIMESTAMP_LEVELS", "list", "2.26", "Which levels get a timestamp.", choices=_LEVELS),
)
