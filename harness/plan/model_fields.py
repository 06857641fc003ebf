"""Whether the fields of a model's shape fit together."""

from harness.config import Model


def check_model(model: Model) -> None:
    """Raise ValueError, one sentence, for sizes that make no model or that nothing of the model uses."""
    if model.heads % model.kv_heads:
        raise ValueError(f"model.heads={model.heads}: must be a multiple of model.kv_heads={model.kv_heads}")
    if model.kv_lora_rank:
        _check_latent(model)
    else:
        _check_grouped(model)
    if model.experts:
        _check_experts(model)
    else:
        _check_dense(model)


def _check_latent(model: Model) -> None:
    if model.rope_head_dim < 2 or model.rope_head_dim % 2:
        raise ValueError(
            f"model.rope_head_dim={model.rope_head_dim}: must be even and at least 2 with latent attention "
            f"(model.kv_lora_rank={model.kv_lora_rank}), for the rotary embedding turns pairs"
        )
    if not model.v_head_dim:
        raise ValueError(
            f"model.v_head_dim=0: must be at least 1 with latent attention (model.kv_lora_rank={model.kv_lora_rank})"
        )
    if model.kv_heads != model.heads:
        raise ValueError(
            f"model.kv_heads={model.kv_heads}: must be model.heads={model.heads} with latent attention, "
            "which makes keys and values for every head"
        )


def _check_grouped(model: Model) -> None:
    if model.head_dim % 2:
        raise ValueError(f"model.head_dim={model.head_dim}: must be even, for the rotary embedding turns pairs")
    for field in ("rope_head_dim", "v_head_dim"):
        if value := getattr(model, field):
            raise ValueError(f"model.{field}={value}: must be 0 without latent attention; or set model.kv_lora_rank")


def _check_experts(model: Model) -> None:
    if not 1 <= model.experts_per_token <= model.experts:
        raise ValueError(
            f"model.experts_per_token={model.experts_per_token}: must be from 1 to model.experts={model.experts}"
        )
    if not model.expert_ffn_dim:
        raise ValueError(f"model.expert_ffn_dim=0: must be at least 1 with model.experts={model.experts}")
    if model.dense_layers > model.layers:
        raise ValueError(
            f"model.dense_layers={model.dense_layers}: must be at most model.layers={model.layers}, all of them"
        )


def _check_dense(model: Model) -> None:
    for field in ("experts_per_token", "expert_ffn_dim", "shared_experts", "dense_layers"):
        if value := getattr(model, field):
            raise ValueError(f"model.{field}={value}: must be 0 without experts; or set model.experts")
    if model.balance != "none":
        raise ValueError(f"model.balance={model.balance}: must be none without experts; or set model.experts")
    for field in ("normalise_routes", "balance_rate"):
        if (value := getattr(model, field)) != getattr(Model, field):
            raise ValueError(f"model.{field}={value}: must be left out without experts; or set model.experts")
