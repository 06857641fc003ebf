import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_configs import group, rows

from harness.plan.nccl import DEBUGGING_NAMES, VARIABLES, check, doubts


def test_the_registry_knows_the_documented_variables_and_says_what_each_means() -> None:
    assert len(VARIABLES) > 100
    assert all(name.startswith("NCCL_") and variable.meaning.endswith(".") for name, variable in VARIABLES.items())


def test_the_page_about_nccl_describes_the_registry() -> None:
    described = [tuple(row) for row in rows("nccl.md", "Variable")]
    registered = [
        (v.name, v.accepts.replace("|", r"\|"), v.since, "studies" if name in DEBUGGING_NAMES else "any", v.meaning)
        for name, v in VARIABLES.items()
    ]
    assert described == registered


@pytest.mark.parametrize("name", group("nccl"))
def test_every_preset_passes_and_names_no_interface_or_adapter(name: str) -> None:
    preset = group("nccl")[name]
    assert next(iter(preset)) == "name"
    assert preset["name"] == name
    check(preset["env"])
    assert not {"NCCL_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_OOB_NET_IFNAME"} & set(preset["env"])


@pytest.mark.parametrize(
    "env",
    [
        {"NCCL_ALGO": "allreduce:ring"},
        {"NCCL_ALGO": "Ring,CollnetDirect;allreduce:tree,collnetdirect;broadcast:ring"},
        {"NCCL_ALGO": "allreduce:^tree"},
        {"NCCL_PROTO": "^LL128"},
        {"NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1"},
        {"NCCL_IB_HCA": "^=mlx5_1,mlx5_4"},
        {"NCCL_IB_HCA": "=mlx5_0::0:0,mlx5_1::0:1"},
        {"NCCL_SOCKET_IFNAME": "^lo,docker"},
        {"NCCL_DEBUG_SUBSYS": "^INIT,ENV"},
        {"NCCL_DEBUG_TIMESTAMP_LEVELS": ""},
        {"NCCL_SOCKET_MAGIC": "0x2a"},
        {"NCCL_NTHREADS": 256},
        {"NCCL_CTA_POLICY": "EFFICIENCY|ZERO"},
        {"NCCL_NETDEVS_POLICY": "MAX:2"},
        {"NCCL_RAS_ADDR": "[::1]:28028"},
        {"NCCL_RAS_TIMEOUT_FACTOR": 0.5},
        {"NCCL_MIN_CTAS": 8, "NCCL_MAX_CTAS": "8"},
    ],
    ids=str,
)
def test_what_the_documentation_allows_passes(env: dict[str, object]) -> None:
    check(env)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"NCCL_AGLO": "ring"}, "nccl.env.NCCL_AGLO: .*did you mean 'NCCL_ALGO'"),
        ({"TORCH_NCCL_ENABLE_TIMING": 1}, "nccl.env.TORCH_NCCL_ENABLE_TIMING: only NCCL_"),
        ({"NCCL_ALGO": "rnig"}, "nccl.env.NCCL_ALGO=rnig: must be ring, tree"),
        ({"NCCL_ALGO": "all_reduce:ring"}, "NCCL_ALGO=all_reduce:ring: must be"),
        ({"NCCL_ALGO": "allreduce:ring;tree"}, "must be"),
        ({"NCCL_IB_TIMEOUT": 32}, "NCCL_IB_TIMEOUT=32: must be an integer from 0 to 31"),
        ({"NCCL_BUFFSIZE": "4M"}, "NCCL_BUFFSIZE=4M: must be an integer of at least 1"),
        ({"NCCL_BUFFSIZE": 1.5}, "must be an integer"),
        ({"NCCL_P2P_DISABLE": True}, "NCCL_P2P_DISABLE=True: must be 0 or 1"),
        ({"NCCL_P2P_DISABLE": None}, "NCCL_P2P_DISABLE=None: must be 0 or 1"),
        ({"NCCL_DEBUG": "info"}, "NCCL_DEBUG=info: must be one of .*did you mean 'INFO'"),
        ({"NCCL_DEBUG_SUBSYS": ["INIT", "ENV"]}, "put a value with commas in quotes"),
        ({"NCCL_DEBUG_SUBSYS": "INIT,ENVS"}, "must be a comma-separated list"),
        ({"NCCL_P2P_LEVEL": 3}, "must be one of LOC, NVL"),
        ({"NCCL_IB_HCA": "=mlx5_0, mlx5_1"}, "must be text such as"),
        ({"NCCL_CONF_FILE": "~/nccl.conf"}, "NCCL_CONF_FILE=~/nccl.conf: must be"),
        ({"NCCL_DEBUG_FILE": "/tmp/log"}, "NCCL_DEBUG_FILE=/tmp/log: leave it out"),
        ({"NCCL_SOCKET_NTHREADS": 16, "NCCL_NSOCKS_PERTHREAD": 8}, "NCCL_NSOCKS_PERTHREAD=8: .*at most 64"),
        ({"NCCL_MIN_CTAS": 16, "NCCL_MAX_CTAS": 8}, "NCCL_MIN_CTAS=16: must be at most NCCL_MAX_CTAS=8"),
    ],
    ids=str,
)
def test_what_nccl_would_ignore_or_misread_is_refused_in_one_sentence(env: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check(env)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "warning"),
    [
        ({"NCCL_PROTO": "LL128"}, "corrupts data"),
        ({"NCCL_PROTO": "allreduce:simple,ll128"}, "corrupts data"),
        ({"NCCL_ALGO": "tree"}, "say allreduce:ring"),
        ({"NCCL_IB_HCA": "mlx5_1"}, "mlx5_10"),
        ({"NCCL_MAX_NCHANNELS": 8}, "NCCL_MAX_CTAS replaced it"),
        ({"NCCL_MIN_NCHANNELS": 8}, "NCCL_MIN_CTAS replaced it"),
        ({"NCCL_TREE_THRESHOLD": 0}, "no effect since NCCL 2.5"),
        ({"NCCL_NVLS_ENABLE": 1}, "2.29 fails"),
        ({"NCCL_BUFFSIZE": 1 << 22}, "for studies and not for production"),
        ({"NCCL_DEBUG_SUBSYS": "INIT,TUNING"}, "slows what is measured"),
        ({"NCCL_DEBUG": "WARN"}, "lacks the transport"),
    ],
    ids=str,
)
def test_a_hazard_is_said(env: dict[str, object], warning: str) -> None:
    assert any(re.search(warning, line) for line in check(env))


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"NCCL_IB_HCA": "=mlx5_1"},
        {"NCCL_IB_HCA": "^=mlx5_1"},
        {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,ENV"},
        {"NCCL_NET": "IB"},
    ],
    ids=str,
)
def test_nothing_is_said_about_harmless_settings(env: dict[str, object]) -> None:
    assert check(env) == []


def test_excluding_ll128_is_no_hazard_and_forcing_an_algorithm_for_one_collective_is_only_for_studies() -> None:
    assert all("corrupts" not in line for line in check({"NCCL_PROTO": "^LL128"}))
    assert len(check({"NCCL_ALGO": "allreduce:ring"})) == 1


@given(
    st.sampled_from(sorted(set(VARIABLES) - {"NCCL_DEBUG_FILE", "NCCL_PSK"})),
    st.one_of(st.text(), st.integers(), st.booleans()),
)
def test_any_value_is_either_taken_or_refused_by_its_name(name: str, value: object) -> None:
    try:
        check({name: value})
        refusal = None
    except ValueError as error:
        refusal = str(error)
    assert refusal is None or refusal.startswith(f"nccl.env.{name}=")


def test_a_secret_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match=r"^nccl\.env\.NCCL_PSK: .*set it in the environment") as caught:
        check({"NCCL_PSK": "s3cret" * 8})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "warning"),
    [
        ({"NCCL_AGLO": "ring"}, "NCCL_AGLO is set .*no such variable; did you mean 'NCCL_ALGO'"),
        ({"NCCL_IB_TIMEOUT": "32"}, "NCCL_IB_TIMEOUT=32 .*must be an integer from 0 to 31"),
        ({"NCCL_P2P_DISABLE": "true"}, "NCCL_P2P_DISABLE=true .*must be 0 or 1"),
    ],
    ids=str,
)
def test_ambient_variables_that_nccl_would_ignore_or_misread_are_doubted(env: dict[str, str], warning: str) -> None:
    [line] = doubts({**env, "NCCL_DEBUG": "INFO"})
    assert re.search(warning, line)
    assert "\n" not in line


def test_harmless_ambient_variables_are_not_doubted() -> None:
    env = {"NCCL_VERSION": "2.28.3-1", "NCCL_DEBUG": "info", "NCCL_NET": "", "NCCL_NVLS_ENABLE": "0", "PATH": "/bin"}
    assert doubts(env) == []


def test_doubts_show_no_secrets() -> None:
    lines = doubts({"NCCL_PSK": "s3cret", "NCCL_PSKK": "s3cret"})
    assert len(lines) == 2
    assert "s3cret" not in "".join(lines)
