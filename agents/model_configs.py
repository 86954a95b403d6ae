"""From the run's configuration to the small ones that models are made with."""

from __future__ import annotations

import dataclasses

from agents import adaptive_beta
from behavior import BehaviorConfig
from config import Config
from envs import ends_early
from heads import ActorConfig, HeadConfig
from models import PredictorConfig, VectorConfig, WorldModelConfig
from networks import SIDES, ImageConfig, activation
from rssm import RSSMConfig
from tools import UserError, is_on, is_zero

# What is read here, of the behaviour and the KL, and by no world model with others of its own.
BEHAVIOR_UNREAD = frozenset(
    {
        *("imag_gradient", "imag_gradient_mix", "imag_sample", "behavior_stop_grad", "grad_heads"),
        *("slow_value_target", "value_decay", "kl_balance"),
        *("actor_dist", "actor_init_std", "actor_temp"),
    }
)


def predictor_config(config: Config, chunk_size: int = 0) -> PredictorConfig:
    """A pretrained predictor's; ``chunk_size`` images pass through its convolutions at once."""
    c = config
    encoder, decoder = grown_kernels(config)
    image = ImageConfig(
        side=c.size[0],
        beta_vae=c.beta_vae,
        z_dim=c.z_dim,
        channels=1 if c.grayscale else 3,
        act=c.act,
        depth=c.cnn_depth,
        encoder_kernels=encoder,
        decoder_kernels=decoder,
        decoder_thin=c.decoder_thin,
        chunk_size=chunk_size,
    )
    rssm = RSSMConfig(
        stoch=c.dyn_stoch,
        deter=c.dyn_deter,
        hidden=c.dyn_hidden,
        discrete=c.dyn_discrete,
        cell=c.dyn_cell,
        input_layers=c.dyn_input_layers,
        output_layers=c.dyn_output_layers,
        act=c.act,
        temp_post=c.dyn_temp_post,
        mean_act=c.dyn_mean_act,
        std_act=c.dyn_std_act,
        min_std=c.dyn_min_std,
        keep_first_action=c.first_action == "published",
    )
    sample = c.pretrain_latents == "sample"
    return PredictorConfig(image, rssm, c.grad_heads, c.kl_forward, sample)


def world_model_config(
    config: Config, chunk_size: int = 0, vector_size: int = 0
) -> WorldModelConfig:
    """A world model's; ``vector_size`` numbers are seen beside an image."""
    c, discount = config, None
    vector = VectorConfig(vector_size, c.vector_layers, c.units, c.act) if vector_size else None
    # The suite, whose package need not be here, is asked only where it decides.
    if is_on(c.pred_discount, c.pred_discount == "auto" and ends_early(c.task)):
        discount = HeadConfig(c.discount_layers, c.units, c.act, "binary")
    reward = HeadConfig(c.reward_layers, c.units, c.act)
    predictor = dataclasses.replace(predictor_config(c, chunk_size), sample=True)
    train_teacher = c.teacher == "trainable"
    return WorldModelConfig(predictor, reward, discount, c.action_num_gap, train_teacher, vector)


def behavior_config(config: Config, discrete: bool = False) -> BehaviorConfig:
    """An actor's and a critic's.

    Args:
        config: the run's.
        discrete: whether actions are choices; what is ``auto`` follows from it.
    """
    c = config
    auto = ("onehot", "reinforce") if discrete else ("trunc_normal", "dynamics")
    dist, gradient = (
        own if given == "auto" else given
        for given, own in zip((c.actor_dist, c.imag_gradient), auto, strict=True)
    )
    actor = ActorConfig(
        layers=c.actor_layers,
        units=c.units,
        act=c.act,
        dist=dist,
        init_std=c.actor_init_std,
        min_std=c.actor_min_std,
        temperature=c.actor_temp,
        outscale=c.actor_outscale,
    )
    return BehaviorConfig(
        actor=actor,
        value=HeadConfig(c.value_layers, c.units, c.act, c.value_head),
        horizon=c.imag_horizon,
        discount=c.discount,
        discount_lambda=c.discount_lambda,
        lambda_return=c.lambda_return,
        actor_target=c.actor_target,
        gradient=gradient,
        sample=c.imag_sample,
        stop_grad=c.behavior_stop_grad,
        future_entropy=c.future_entropy,
        state_entropy=not is_zero(c.actor_state_entropy),
        value_decay=c.value_decay,
        slow_value_target=c.slow_value_target,
        slow_actor_target=c.slow_actor_target,
        slow_fraction=c.slow_target_fraction,
    )


def grown_kernels(config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The kernels of DreamerV2's CNN and of its way back, for images of ``--size``.

    Those of 64×64 grow by a layer where images are larger: on the way in a last one like the one
    before, if more than 2×2 pixels are left; on the way back a first one, if those given draw less,
    whose kernel makes the size right.
    """
    c, side = config, config.size[0]
    encoder, decoder = c.encoder_kernels, c.decoder_kernels
    if side > 64 and side_read(side, encoder) > 2:
        encoder = (*encoder, encoder[-1])
    if side_drawn(decoder, c.decoder_thin) < side:
        more = [(kernel, *decoder) for kernel in range(1, 9)]
        decoder = next((k for k in more if side_drawn(k, c.decoder_thin) == side), decoder)
    return encoder, decoder


def side_read(side: int, kernels: tuple[int, ...]) -> int:
    """What convolutions of stride 2, without padding, leave of a side."""
    for kernel in kernels:
        side = (side - kernel) // 2 + 1
    return side


def side_drawn(kernels: tuple[int, ...], thin: bool) -> int:
    """The side that transposed convolutions of stride 2 draw, from 1×1 where ``thin``, else 2×2."""
    side = 1 if thin else 2
    for kernel in kernels:
        side = 2 * (side - 1) + kernel
    return side


def check_networks(config: Config) -> None:
    """Checks activation, the images' size for the CNNs, and what is to move β.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    c = config
    try:
        activation(c.act)
    except ValueError as error:
        raise UserError(f"--act: {error}") from None
    side = c.size[0]
    if c.size[1] != side or side not in SIDES:
        sizes = ", ".join(f"{n} {n}" for n in SIDES)
        raise UserError(f"--size {_words(c.size)}: the encoders and decoders are made for {sizes}")
    encoder, decoder = grown_kernels(c)
    if side_read(side, encoder) < 1:
        given = _words(c.encoder_kernels)
        raise UserError(f"--encoder_kernels {given}: too much for {side}×{side}")
    if (drawn := side_drawn(decoder, c.decoder_thin)) != side:
        fitting = "5 5 6 6" if c.decoder_thin else "5 3 4 2"
        raise UserError(
            f"--decoder_kernels {_words(c.decoder_kernels)} with --decoder_thin {c.decoder_thin} "
            f"draw {drawn}×{drawn}, not {side}×{side}: give others, such as {fitting}"
        )
    adaptive_beta.check(c)


def _words(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))
