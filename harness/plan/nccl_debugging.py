"""NCCL variables that force one of its choices: fit for a study, not for production.

The class "Debugging" of NCCL's user guide, chapter Environment Variables (NCCL 2.32), and variables of the same
sort that only NCCL's source names.
"""

from harness.plan.nccl_variable import Variable

_ALGORITHMS = ("ring", "tree", "collnetdirect", "collnetchain", "nvls", "nvlstree", "pat")
_PROTOCOLS = ("ll", "ll128", "simple")
_PATHS = ("LOC", "PIX", "PXB", "PHB", "SYS")
_AWS = "on AWS leave it alone: the EFA plugin counts on NCCL's own choice"

DEBUGGING = (
    # Algorithm and protocol
    Variable(
        "NCCL_ALGO",
        "scoped",
        "2.5",
        "Algorithms that NCCL may take, for all collectives or for each.",
        choices=_ALGORITHMS,
        example="allreduce:ring;allgather:ring",
        hazard=(
            "without a collective's name it binds all of them, and since NCCL 2.24 one that lacks the algorithm "
            "fails: say allreduce:ring"
        ),
        hazard_when=r"^[^:;]+(;|$)",
    ),
    Variable(
        "NCCL_PROTO",
        "scoped",
        "2.5",
        "Protocols that NCCL may take, for all collectives or for each.",
        choices=_PROTOCOLS,
        example="^LL128",
        hazard="LL128 corrupts data where the hardware does not support it: exclude protocols instead, such as ^LL",
        hazard_when=r"(^|[;:])(?!\^)[^;:]*\bLL128\b",
    ),
    Variable("NCCL_LL_BUFFSIZE", "int", "", "Bytes of the LL protocol's buffer.", least=1),
    Variable("NCCL_LL128_BUFFSIZE", "int", "", "Bytes of the LL128 protocol's buffer.", least=1),
    Variable("NCCL_SINGLE_RING_THRESHOLD", "int", "2.1", "Bytes below which one ring is used.", least=0, removed="2.3"),
    Variable("NCCL_LL_THRESHOLD", "int", "2.1", "Bytes below which LL is used.", least=0, removed="2.5"),
    Variable("NCCL_TREE_THRESHOLD", "int", "2.4", "Bytes below which trees are used.", least=0, removed="2.5"),
    # Blocks, channels, buffers
    Variable("NCCL_MIN_CTAS", "int", "2.17", "Fewest GPU blocks for a collective.", least=1, most=64, hazard=_AWS),
    Variable("NCCL_MAX_CTAS", "int", "2.17", "Most GPU blocks for a collective.", least=1, most=64, hazard=_AWS),
    Variable(
        "NCCL_MIN_NCHANNELS",
        "int",
        "2.5",
        "Old name of the fewest blocks.",
        least=1,
        most=64,
        hazard="NCCL_MIN_CTAS replaced it in NCCL 2.17; where both are set the higher counts",
    ),
    Variable(
        "NCCL_MAX_NCHANNELS",
        "int",
        "2.5",
        "Old name of the most blocks.",
        least=1,
        most=64,
        hazard="NCCL_MAX_CTAS replaced it in NCCL 2.17; where both are set the lower counts",
    ),
    Variable(
        "NCCL_MIN_NRINGS",
        "int",
        "2.2",
        "Oldest name of the fewest blocks.",
        least=1,
        most=64,
        hazard="NCCL_MIN_CTAS replaced it in NCCL 2.17",
    ),
    Variable(
        "NCCL_MAX_NRINGS",
        "int",
        "2.0.5",
        "Oldest name of the most blocks.",
        least=1,
        most=64,
        hazard="NCCL_MAX_CTAS replaced it in NCCL 2.17",
    ),
    Variable("NCCL_MIN_P2P_NCHANNELS", "int", "", "Fewest channels for send and receive.", least=1, most=64),
    Variable("NCCL_MAX_P2P_NCHANNELS", "int", "", "Most channels for send and receive.", least=1, most=64),
    Variable("NCCL_NCHANNELS_PER_NET_PEER", "int", "", "Channels to one peer over the network.", least=1, most=64),
    Variable("NCCL_NTHREADS", "enum", "", "CUDA threads in a block.", choices=("64", "128", "256", "512")),
    Variable("NCCL_BUFFSIZE", "int", "", "Bytes of the buffer between two GPUs.", least=1, hazard=_AWS),
    Variable("NCCL_CGA_CLUSTER_SIZE", "int", "2.16", "Blocks in a thread block cluster (Hopper on).", least=0, most=8),
    Variable("NCCL_SET_STACK_SIZE", "bool", "2.9", "1 sets the kernels' stack once, at the largest need."),
    Variable("NCCL_MEM_SYNC_DOMAIN", "bool", "2.16", "Memory domain of NCCL's kernels, apart from compute."),
    Variable(
        "NCCL_LAUNCH_MODE",
        "enum",
        "2.1",
        "How kernels start where a process drives several GPUs.",
        choices=("PARALLEL", "GROUP"),
        hazard="GROUP is deprecated since NCCL 2.9",
        hazard_when="GROUP",
    ),
    # Inside a node
    Variable("NCCL_P2P_DISABLE", "bool", "", "1 forbids direct traffic between GPUs, over NVLink too."),
    Variable(
        "NCCL_P2P_LEVEL",
        "enum",
        "2.3.4",
        "Longest path on which GPUs talk directly.",
        choices=("LOC", "NVL", "PIX", "PXB", "PHB", "SYS"),
    ),
    Variable("NCCL_P2P_DIRECT_DISABLE", "bool", "", "1 forbids direct use of user buffers inside a process."),
    Variable("NCCL_P2P_LL_THRESHOLD", "int", "2.14", "Largest send, in bytes, that takes LL.", least=0),
    Variable("NCCL_P2P_NVL_CHUNKSIZE", "int", "", "Bytes of a piece of a send over NVLink.", least=1),
    Variable("NCCL_P2P_PCI_CHUNKSIZE", "int", "", "Bytes of a piece of a send over PCIe.", least=1),
    Variable("NCCL_SHM_DISABLE", "bool", "", "1 forbids traffic through the host's shared memory."),
    Variable("NCCL_NVB_DISABLE", "bool", "2.11", "1 forbids NVLink routes over a third GPU."),
    Variable(
        "NCCL_NVLS_ENABLE",
        "int",
        "2.17",
        "NVLink SHARP, reductions in the NVSwitch: 0 off, 1 on, 2 as NCCL sees fit.",
        least=0,
        most=2,
        hazard="where its memory cannot be had, NCCL 2.27 and 2.28 fall back without a word and 2.29 fails",
        hazard_when="[12]",
    ),
    Variable("NCCL_NVLS_NCHANNELS", "int", "", "Channels of the NVLS algorithm.", least=1, most=64),
    Variable("NCCL_NVLS_CHUNKSIZE", "int", "", "Bytes of a piece in the NVLS algorithm.", least=1),
    Variable("NCCL_NVLSTREE_MAX_CHUNKSIZE", "int", "", "Most bytes of a piece in the NVLSTree algorithm.", least=1),
    Variable(
        "NCCL_MNNVL_ENABLE", "int", "2.21", "NVLink between nodes: 0 off, 1 or fail, 2 where found.", least=0, most=2
    ),
    Variable("NCCL_MNNVL_UUID", "int", "2.25", "Replaces the NVLink domain's id."),
    Variable("NCCL_MNNVL_CLIQUE_ID", "int", "2.25", "Splits an NVLink domain by number."),
    Variable(
        "NCCL_IPC_USE_ABSTRACT_SOCKET",
        "bool",
        "2.29",
        "0 lets containers with own network namespaces exchange handles.",
    ),
    # Between nodes
    Variable("NCCL_IB_DISABLE", "bool", "", "1 forbids InfiniBand and RoCE, so that traffic goes over sockets."),
    Variable("NCCL_IB_AR_THRESHOLD", "int", "2.6", "Bytes from which adaptive routing is used.", least=0),
    Variable("NCCL_IB_ADAPTIVE_ROUTING", "bool", "2.16", "1 sends data in a form that switches may route adaptively."),
    Variable("NCCL_IB_OOO_RQ", "bool", "2.30", "1 lets receives complete out of order."),
    Variable("NCCL_IB_QPS_PER_CONNECTION", "int", "2.10", "Queue pairs for a connection.", least=1, most=128),
    Variable("NCCL_IB_SPLIT_DATA_ON_QPS", "bool", "2.18", "1 splits each message over them; 0 takes turns."),
    Variable("NCCL_IB_CUDA_SUPPORT", "bool", "", "Old switch of GPUDirect RDMA.", removed="2.4"),
    Variable(
        "NCCL_IB_PCI_RELAXED_ORDERING",
        "int",
        "2.12",
        "PCIe relaxed ordering: 0 off, 1 or fail, 2 auto.",
        least=0,
        most=2,
    ),
    Variable("NCCL_IB_ECE_ENABLE", "bool", "2.23", "0 turns off Enhanced Connection Establishment."),
    Variable("NCCL_IB_MERGE_NICS", "bool", "2.20", "0 keeps the ports of a dual-port adapter apart."),
    Variable(
        "NCCL_NET_MERGE_LEVEL", "enum", "", "Longest path between adapters that are merged.", choices=(*_PATHS, "PORT")
    ),
    Variable("NCCL_NET_MERGE_POLICY", "enum", "2.30.5", "Merge all, or those of one rail.", choices=("ALL", "RAIL")),
    Variable("NCCL_NET_GDR_LEVEL", "enum", "2.4", "Longest path on which a NIC reads GPU memory.", choices=_PATHS),
    Variable(
        "NCCL_IB_GDR_LEVEL",
        "enum",
        "2.3.4",
        "Old name of NCCL_NET_GDR_LEVEL.",
        choices=_PATHS,
        hazard="NCCL_NET_GDR_LEVEL replaced it in NCCL 2.4",
    ),
    Variable("NCCL_NET_GDR_C2C", "bool", "2.26", "1 lets NICs at the CPU reach GPU memory over C2C."),
    Variable("NCCL_NET_GDR_READ", "bool", "", "1 sends straight from GPU memory; 0 through the host."),
    Variable("NCCL_NET_SHARED_BUFFERS", "bool", "2.8", "0 gives every remote peer buffers of its own."),
    Variable("NCCL_NET_SHARED_COMMS", "bool", "2.12", "0 gives every connection over another GPU's NIC its own."),
    Variable("NCCL_GDRCOPY_ENABLE", "bool", "", "1 maps NCCL's control structures with GDRCopy."),
    Variable("NCCL_GDRCOPY_FIFO_ENABLE", "bool", "", "0 keeps the work queue in host memory all the same."),
    Variable("NCCL_GDRCOPY_SYNC_ENABLE", "bool", "", "0 keeps the network's counters in host memory."),
    Variable("NCCL_GDRCOPY_FLUSH_ENABLE", "bool", "", "1 flushes received data with a read over GDRCopy."),
    Variable("NCCL_DMABUF_ENABLE", "bool", "2.13", "0 forbids registering GPU memory through dma-buf."),
    Variable("NCCL_P2P_NET_CHUNKSIZE", "int", "2.14", "Bytes of a piece of a send over the network.", least=1),
    Variable("NCCL_ALLOC_P2P_NET_LL_BUFFERS", "bool", "2.14", "1 gives every network peer LL buffers; costs memory."),
    Variable("NCCL_PXN_DISABLE", "bool", "2.12", "1 forbids the way over another GPU to that GPU's NIC."),
    Variable(
        "NCCL_P2P_PXN_LEVEL", "int", "2.12", "When sends take that way: 0 never, 1 if far, 2 always.", least=0, most=2
    ),
    Variable("NCCL_PXN_C2C", "bool", "2.27", "1 allows that way over C2C and PCIe."),
    Variable("NCCL_IGNORE_NET_MISMATCH", "bool", "2.30", "0 fails where ranks see unequal numbers of NICs."),
    Variable("NCCL_IGNORE_COLLNET_MISMATCH", "bool", "2.30", "1 goes on where ranks see unequal switch offload."),
    # Memory and registration
    Variable("NCCL_CUMEM_ENABLE", "bool", "2.18", "Whether GPU memory comes from CUDA's cuMem functions."),
    Variable("NCCL_CUMEM_HOST_ENABLE", "bool", "2.23", "The same for host memory."),
    Variable("NCCL_LOCAL_REGISTER", "bool", "2.19", "0 ignores buffers that a program registers."),
    Variable(
        "NCCL_LEGACY_CUDA_REGISTER",
        "bool",
        "2.24",
        "1 registers memory of cudaMalloc too.",
        hazard="registering such memory synchronises, and can hang",
        hazard_when="1",
    ),
    Variable("NCCL_WIN_ENABLE", "bool", "2.27", "0 turns off memory windows."),
    Variable("NCCL_SYM_GIN_KERNELS_ENABLE", "bool", "2.29", "0 turns off symmetric kernels over the network."),
    Variable("NCCL_RMA_EAGER_INIT", "bool", "2.31", "1 prepares one-sided signals at start."),
    # Order and CUDA graphs
    Variable("NCCL_RUNTIME_CONNECT", "bool", "2.22", "0 connects all peers at start and not at first use."),
    Variable("NCCL_COMM_BLOCKING", "bool", "2.14", "Whether NCCL's calls may block; overrides the program."),
    Variable(
        "NCCL_LAUNCH_ORDER_IMPLICIT", "bool", "2.26", "1 orders operations of different groups as they were issued."
    ),
    Variable("NCCL_LAUNCH_RACE_FATAL", "bool", "2.26", "0 tolerates threads that race to launch on one GPU."),
    Variable("NCCL_GRAPH_REGISTER", "bool", "2.11", "0 does not register buffers of captured graphs."),
    Variable("NCCL_GRAPH_MIXING_SUPPORT", "bool", "2.13", "0 forbids several graphs, or graphs and calls, in flight."),
    Variable(
        "NCCL_GRAPH_STREAM_ORDERING",
        "bool",
        "2.30",
        "0 leaves the order of captured collectives to the program.",
        hazard="without this order two collectives at once on a GPU can hang",
        hazard_when="0",
    ),
    # Checks
    Variable("NCCL_CHECKS_DISABLE", "bool", "2.0.5", "1 skipped checks of arguments.", removed="2.2.12"),
    Variable(
        "NCCL_CHECK_POINTERS",
        "bool",
        "2.2.12",
        "1 checks pointers at each call.",
        hazard="NCCL_CHECK_MODE=DEBUG_LOCAL replaced it in NCCL 2.29",
    ),
    Variable(
        "NCCL_CHECK_MODE",
        "enum",
        "2.29.7",
        "How far arguments are checked at each call.",
        choices=("DEFAULT", "DEBUG_LOCAL", "DEBUG_GLOBAL"),
    ),
    Variable("NCCL_RAS_ENABLE", "bool", "2.24", "0 turns off the health service inside the job."),
    Variable(
        "NCCL_RAS_ADDR",
        "text",
        "2.24",
        "Where that service listens.",
        pattern=r"(\[[0-9a-fA-F:]+\]|[^:\s]+):\d+",
        example="localhost:28028",
    ),
    Variable(
        "NCCL_RAS_TIMEOUT_FACTOR",
        "text",
        "2.24",
        "Factor on all of that service's timeouts.",
        pattern=r"(?=.*[1-9])\d*\.?\d+",
        example="2.5",
    ),
)
