"""Stages of a pipeline train as the bare module does, whatever the schedule, and what goes missing is noticed."""

import functools
from collections import Counter

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks
from tiny_training import reference
from torch.profiler import ProfilerActivity, profile

from harness.models.initialize import initialize
from harness.models.transformer import Transformer
from harness.parallel import pipeline

agree, slow = tiny.agree, pytest.mark.slow
VIRTUAL = {"1f1b": 1, "gpipe": 1, "interleaved": 2, "zero_bubble": 2}
CPU = torch.device("cpu")


def trained(world, pp, schedule="1f1b", kind="fsdp", microbatches=4, function=tiny.through_strategy, **how):
    """What every rank is told by five steps."""
    degrees = {"pp": pp, **how.pop("degrees", {})}
    stages = {"schedule": schedule, "virtual_stages": VIRTUAL[schedule]}
    return run_ranks(world, functools.partial(function, kind, microbatches, degrees=degrees, **stages, **how))


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [
        ("fsdp", "1f1b"),
        pytest.param("fsdp", "gpipe", marks=slow),
        pytest.param("fsdp", "interleaved", marks=slow),
        ("fsdp", "zero_bubble"),
        pytest.param("ddp", "1f1b", marks=slow),
        ("ddp", "gpipe"),
        ("ddp", "interleaved"),
    ],
)
def test_two_stages_of_two_data_ranks_equal_the_bare_module(kind, schedule):
    for told in trained(4, 2, schedule, kind):
        assert agree(told, reference()), (told, reference())


@pytest.mark.parametrize("schedule", VIRTUAL)
def test_four_ranks_and_eight_microbatches_equal_the_bare_module(schedule):
    for told in trained(4, 4, schedule, microbatches=8, shape="eight_layers"):
        assert agree(told, reference("eight_layers"))


@pytest.mark.parametrize("schedule", [pytest.param("gpipe", marks=slow), "interleaved", "zero_bubble"])
def test_fewer_microbatches_than_ranks_do_not_stop_a_pipeline(schedule):
    assert agree(trained(4, 4, schedule, microbatches=2, shape="eight_layers")[0], reference("eight_layers"))


@pytest.mark.parametrize(
    ("shape", "schedule"),
    [
        pytest.param("moe", "1f1b", marks=slow),
        ("moe", "zero_bubble"),
        ("mla", "1f1b"),
        pytest.param("mla", "zero_bubble", marks=slow),
    ],
)
def test_experts_and_latent_attention_equal_the_bare_module(shape, schedule):
    assert agree(trained(4, 2, schedule, shape=shape)[0], reference(shape))


def test_experts_of_replicated_stages_equal_the_bare_module():
    assert agree(trained(4, 2, kind="ddp", shape="mla")[0], reference("mla"))


def test_plain_accumulation_weighs_auxiliary_losses_as_a_pipeline_does():
    accumulated = functools.partial(tiny.through_strategy, "fsdp", 4, shape="moe")
    assert agree(run_ranks(2, accumulated)[0], reference("moe"))


def test_uneven_stages_equal_the_bare_module():
    assert agree(trained(2, 2, shape="five_layers")[0], reference("five_layers"))


@pytest.mark.parametrize("degree", ["tp", "cp", "ep", "replicas"])
def test_stages_combine_with_other_degrees(degree):
    kind, shape = "hsdp" if degree == "replicas" else "fsdp", "moe" if degree == "ep" else "dense"
    assert agree(trained(4, 2, kind=kind, shape=shape, degrees={degree: 2})[0], reference(shape))


@pytest.mark.parametrize("schedule", ["1f1b", pytest.param("zero_bubble", marks=slow)])
def test_stages_of_sharded_copies_equal_the_bare_module(schedule):
    for told in trained(8, 2, schedule, "hsdp", microbatches=2, shape="mla", degrees={"replicas": 2}):
        assert agree(told, reference("mla")), (told, reference("mla"))


@pytest.mark.parametrize("schedule", ["1f1b", pytest.param("gpipe", marks=slow), "interleaved"])
def test_recomputing_blocks_leaves_the_numbers_alone(schedule):
    assert agree(trained(2, 2, schedule, checkpointing="full")[0], reference())


@slow
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "interleaved"])
def test_compiled_stages_train_as_eager_ones(schedule):
    assert agree(trained(2, 2, schedule, compile=True)[0], reference())


def test_weight_gradients_taken_apart_are_summed_in_fp32_too():
    """zero_bubble runs the operations of interleaved at other times, so that its gradients are the same to the bit."""
    bf16 = {"microbatches": 8, "compute": torch.bfloat16}
    apart, together = (trained(2, 2, schedule, **bf16)[0] for schedule in ("zero_bubble", "interleaved"))
    for (loss, norm), (other_loss, other_norm) in zip(apart, together, strict=True):
        assert (loss, norm) == pytest.approx((other_loss, other_norm), rel=1e-6)


def losses_of_ranks(kind, microbatches, **how):
    """The rank's own share of the first step's loss."""
    built = tiny.build(kind, CPU, microbatches=microbatches, **how)
    batches = tiny.data(*built.coordinates, microbatches, CPU)
    return built.forward_backward(batches.batch(1)).item()


def test_the_last_stage_alone_has_the_loss_and_its_mean_over_all_ranks_is_the_loss():
    first, second, third, last = trained(4, 4, function=losses_of_ranks)
    assert first == second == third == 0
    assert last == pytest.approx(4 * reference()[0][0], abs=4 * tiny.LOSS_TOLERANCE)


def initial_values(kind, microbatches, **how):
    built = tiny.build(kind, CPU, microbatches=microbatches, **how)
    return [
        {name.removeprefix("module."): parameter.tolist() for name, parameter in part.named_parameters()}
        for part in built.parts
    ]


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_stages_together_have_the_initial_parameters_of_the_whole_model_by_name(schedule):
    whole = Transformer(**tiny.DENSE)
    initialize(whole, tiny.DENSE["layers"], tiny.SEED, CPU)
    parts = [part for rank in trained(2, 2, schedule, kind="ddp", function=initial_values) for part in rank]
    assert sum(len(part) for part in parts) == len(dict(whole.named_parameters()))
    together = {name: values for part in parts for name, values in part.items()}
    for name, parameter in whole.named_parameters():
        assert together[name] == parameter.tolist()


def second_step(kind, microbatches, **how):
    """How often a step calls each operation."""
    built = tiny.build(kind, CPU, microbatches=microbatches, **how)
    batches = tiny.data(*built.coordinates, microbatches, CPU)
    for step in (1, 2):
        with profile(activities=[ProfilerActivity.CPU]) as window:
            built.forward_backward(batches.batch(step))
        built.update(tiny.LR)
    return Counter(event.name for event in window.events() if event.name.startswith("c10d::"))


@pytest.mark.parametrize("schedule", VIRTUAL)
def test_a_step_moves_streams_and_their_gradients_once_a_microbatch_and_parameters_once_in_all(schedule):
    """Of four blocks a rank has two, gathered one by one, and the embedding or the head."""
    streams = 4 * (2 * VIRTUAL[schedule] - 1)
    for calls in trained(4, 2, schedule, microbatches=4, function=second_step):
        assert calls == {
            "c10d::send": streams,
            "c10d::recv_": streams,
            "c10d::_allgather_base_": 3,
            "c10d::_reduce_scatter_base_": 3,
        }


def through_stage(stage, kind, microbatches, **how):
    """Train with another kind of stage."""
    pipeline.Stage = stage
    return tiny.through_strategy(kind, microbatches, **how)


class Unsynchronised(pipeline.Stage):
    """The last stage reduces no gradients over its data ranks."""

    def backward_one_chunk(self, *arguments, last_backward=False, **named):
        super().backward_one_chunk(*arguments, last_backward=last_backward and not self.is_last, **named)

    def perform_reduce_grad(self, scale):
        if not self.is_last:
            super().perform_reduce_grad(scale)


def test_a_stage_that_leaves_out_its_all_reduce_is_noticed():
    told = trained(4, 2, kind="ddp", function=functools.partial(through_stage, Unsynchronised))
    assert not agree(told[0], reference())


def test_a_stage_that_leaves_out_its_reduce_scatter_is_noticed():
    """Its shards never get a gradient then."""
    with pytest.raises(AssertionError, match="a parameter got no gradient"):
        trained(4, 2, function=functools.partial(through_stage, Unsynchronised))


class NothingBack(pipeline.Stage):
    """The stage before never learns how its output should change."""

    def backward_one_chunk(self, chunk, *arguments, **named):
        super().backward_one_chunk(chunk, *arguments, **named)
        for gradient in self.bwd_cache[chunk]:
            if gradient is not None:
                gradient.zero_()


@pytest.mark.parametrize("schedule", ["1f1b", "zero_bubble"])
def test_gradients_that_are_not_sent_back_are_noticed(schedule):
    told = trained(2, 2, schedule, function=functools.partial(through_stage, NothingBack))
    assert not agree(told[0], reference())


def double_on_the_last_stage(built):
    if built.mesh.pp.get_local_rank() == built.mesh.pp.size() - 1:
        for parameter in built.model.parameters():
            parameter.grad.mul_(2)


def test_one_stage_with_doubled_gradients_is_noticed():
    assert not agree(trained(2, 2, spoil=double_on_the_last_stage)[0], reference())


def test_a_tied_model_is_not_split():
    with pytest.raises(AssertionError, match="tied model are one parameter"):
        trained(2, 2, tied=True)
