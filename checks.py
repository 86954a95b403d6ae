"""What a configuration must satisfy beyond its types; each refusal is one line with the mend."""

from __future__ import annotations

import dataclasses
import sys

import sources
from agent import SCHEDULES
from config import Config
from device_store import check_device
from envs import SUITES, EnvSettings, parse_task
from networks import ActionHead, activation
from predictors import find_predictor
from run import check_writable
from tools import UserError, expand, nearest, schedule

_POSITIVE = (
    "action_repeat time_limit envs eval_episodes eval_envs batch_size train_every dyn_hidden "
    "dyn_deter dyn_stoch dyn_input_layers dyn_output_layers units reward_layers discount_layers "
    "keep_checkpoints max_bad_updates "
    "actor_layers value_layers cnn_depth z_dim slow_target_update opt_eps model_lr actor_lr "
    "value_lr grad_clip actor_grad_clip value_grad_clip dyn_min_std actor_min_std actor_temp"
)
_NOT_NEGATIVE = (
    "seed steps prefill pretrain train_steps dataset_size num_threads image_chunk dyn_discrete "
    "env_restarts env_timeout max_delta step_std eval_every log_every checkpoint_every "
    "pretrain_save_every pretrain_action_num source_action_num action_num_gap weight_decay "
    "expl_amount eval_noise expl_until"
)
_SHARES = "discount discount_lambda slow_target_fraction"


def check(config: Config) -> None:
    """Checks a configuration before anything is made.

    Raises:
        UserError: one line that names the flag and the mend.
        UnknownTask: there is no such task; one line with the nearest one.
    """
    check_values(config)
    parse_task(config.task)
    check_device(config)
    if config.evaluate is not None:
        _check_backgrounds(config)
    elif config.eval_colors is not None:
        raise UserError("--eval_colors goes with --evaluate, and the folder of a run")
    elif config.beta_vae_pretrain:
        _check_pretraining(config)
    else:
        _check_method(config)


def check_values(config: Config) -> None:
    """Checks what concerns no task, method or folder.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    _check_numbers(config)
    _check_names(config)
    if config.export_checkpoint is not None and config.evaluate is not None:
        raise UserError("--export_checkpoint and --evaluate do not go together: give one of them")
    if config.export_checkpoint == "":
        raise UserError("--export_checkpoint needs the name of a folder")


def _check_numbers(config: Config) -> None:
    for name in _POSITIVE.split():
        if config[name] <= 0:
            raise UserError(f"--{name} must be above 0, not {config[name]}")
    for name in _NOT_NEGATIVE.split():
        if config[name] < 0:
            raise UserError(f"--{name} must be 0 or more, not {config[name]}")
    for name in _SHARES.split():
        if not 0 <= config[name] <= 1:
            raise UserError(f"--{name} must be between 0 and 1, not {config[name]}")
    if not 0 < config.pretrain_dataset_scale <= 1:
        raise UserError(
            f"--pretrain_dataset_scale is a share of the episodes: give a number above 0 and up "
            f"to 1, not {config.pretrain_dataset_scale}"
        )
    for name in ("batch_length", "imag_horizon"):
        if config[name] < 2:
            raise UserError(f"--{name} must be at least 2, not {config[name]}")
    if 0 < config.steps < config.action_repeat:
        raise UserError(
            f"--steps {config.steps} is less than one agent step of {config.action_repeat} frames"
        )
    zoom = config.camera_max_zoom_in_percent
    if zoom is not None and not 0 <= zoom < 1:
        raise UserError(f"--camera_max_zoom_in_percent is a share below 1, not {zoom}")
    if config.shadow_size is not None and config.shadow_size < 1:
        raise UserError(f"--shadow_size must be above 0, not {config.shadow_size}")
    for prefix in ("", "test_"):
        delta, colors = config[f"{prefix}max_delta"], config[f"{prefix}disjoint_sets"]
        delta = config.max_delta if delta is None else delta
        if not 0 <= delta <= 1:
            raise UserError(f"--{prefix}max_delta must be between 0 and 1, not {delta}")
        if delta > 0.2 and colors:
            raise UserError(
                f"--{prefix}max_delta {delta} makes the train and test colours overlap: give at "
                f"most 0.2, or --{prefix}disjoint_sets null"
            )


def _check_names(config: Config) -> None:
    for key in SCHEDULES.values():
        if config[key] != "auto":
            try:
                schedule(config[key])
            except UserError as error:
                raise UserError(f"--{key}: {error}") from None
    try:
        activation(config.act)
    except ValueError as error:
        raise UserError(f"--act: {error}") from None
    heads = ("image", "reward", "discount")
    for head in config.grad_heads:
        if head not in heads:
            raise UserError(
                f"--grad_heads takes {', '.join(heads)}, not '{head}'{nearest(head, heads)}"
            )
    if config.size != (64, 64):
        given = " ".join(map(str, config.size))
        raise UserError(f"--size {given}: the encoders and decoders are made for 64 64")
    _check_kernels(config)


def _check_kernels(config: Config) -> None:
    """Checks that the plain CNN reads 64×64 images and draws them again."""
    side = 64
    for kernel in config.encoder_kernels:
        side = (side - kernel) // 2 + 1
    if side < 1:
        raise UserError(f"--encoder_kernels {_words(config.encoder_kernels)}: too much for 64×64")
    side = 1 if config.decoder_thin else 2
    for kernel in config.decoder_kernels:
        side = 2 * (side - 1) + kernel
    if side != 64:
        fitting = "5 5 6 6" if config.decoder_thin else "5 3 4 2"
        raise UserError(
            f"--decoder_kernels {_words(config.decoder_kernels)} with --decoder_thin "
            f"{config.decoder_thin} draw {side}×{side}, not 64×64: give others, such as {fitting}"
        )


def _words(values: tuple) -> str:
    return " ".join(map(str, values))


def _check_pretraining(config: Config) -> None:
    if config.pretrain_datasets_path:
        sources.check(config)
    elif config.offline_traindir:
        _check_folder(config, "offline_traindir")
    else:
        raise UserError(
            "--beta_vae_pretrain needs --pretrain_datasets_path: a folder of .npz episodes such as "
            "the train_eps of a run with --configs defaults dmc2gym collect, an archive of one, "
            "hf:<name>, or videos"
        )
    if not config.beta_vae:
        print("note: without --beta_vae True the predictor has DreamerV2's CNN", file=sys.stderr)
    _check_folder(config, "offline_evaldir")
    if config.pretrain_steps < 50:
        raise UserError(
            f"--pretrain_steps {config.pretrain_steps}: one update counts 50, so give at least 50"
        )


def _check_method(config: Config) -> None:
    if config.method_name == "dreamerv2":
        for name in ("beta_vae", "distillation", "traverse"):
            if config[name]:
                raise UserError(
                    f"--method_name dreamerv2 is the agent without β-VAE and teacher: leave out "
                    f"--{name} True, or use --method_name diswm"
                )
    if config.traverse and not config.beta_vae:
        raise UserError("--traverse True draws the β-VAE's latents: add --beta_vae True")
    if config.distillation:
        given = config.pretrain_checkpoint_path
        if (folder := find_predictor(given)) != expand(given, "pretrain_checkpoint_path"):
            print(f"note: {given} has no encoder.pt; its newest is {folder}'s", file=sys.stderr)
    _check_folder(config, "offline_traindir")
    _check_backgrounds(config)
    for flag in ("traindir", "evaldir"):
        if config[flag]:
            folder = expand(config[flag], flag).absolute()
            check_writable(folder, f"--{flag}", "choose another")
    _note_unread(config)
    if config.method_name == "diswm" and not (config.beta_vae or config.distillation):
        print(
            "note: diswm without --beta_vae True and --distillation True is DreamerV2",
            file=sys.stderr,
        )


def _note_unread(config: Config) -> None:
    """Says which of the given flags and blocks are not for the task's suite."""
    settings = {field.name for field in dataclasses.fields(EnvSettings)}
    suite = parse_task(config.task).suite
    for block in (set(config.blocks) & set(SUITES)) - {suite}:
        print(
            f"note: the block {block} is for {block}_… tasks; {config.task} has the block {suite}",
            file=sys.stderr,
        )
    unread = (config.given & settings) - SUITES[suite].reads
    if unread:
        flags = ", ".join(f"--{name}" for name in sorted(unread))
        print(f"note: {flags} changes nothing in {config.task}", file=sys.stderr)


def _check_backgrounds(config: Config) -> None:
    _check_folder(config, "background_dataset_path", "*")
    _check_folder(config, "test_background_dataset_path", "*")


def _check_folder(config: Config, flag: str, content: str = "*.npz") -> None:
    if not config[flag]:
        return
    folder = expand(config[flag], flag)
    if not folder.is_dir():
        raise UserError(
            f"--{flag} {folder}: there is no such folder; give one that holds {content}"
        )
    if not any(folder.glob(content)):
        raise UserError(f"--{flag} {folder} has no {content.lstrip('*')} file; give another folder")


def check_actor(config: Config, discrete: bool) -> None:
    """Checks that the actor's distribution fits the environment's actions.

    Raises:
        UserError: it does not.
    """
    fitting = ActionHead.DISCRETE if discrete else ActionHead.CONTINUOUS
    if config.actor_dist not in fitting:
        kind = "discrete" if discrete else "continuous"
        raise UserError(
            f"--actor_dist {config.actor_dist} does not fit the {kind} actions of {config.task}: "
            f"give {' or '.join(fitting)}"
        )
    if discrete and config.imag_gradient == "dynamics" and config.actor_dist == "onehot":
        print("note: discrete actors learn better with --imag_gradient reinforce", file=sys.stderr)
