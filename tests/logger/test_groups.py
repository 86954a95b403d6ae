"""Groups of the boards: every name has one, pages of charts have curves, settings a row."""

import re

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

import config
from logger.groups import FIRST, LAYOUT, NAMES, group_of, picture_tag, scalar_tag
from logger.tensorboard import TensorBoardSink

# A name of the log and what it is on a board.
TAGS = """
eval_return eval/return
eval_return_std eval/return_std
random_return eval/random_return
train_return train/return
updates train/updates
image_loss loss/image_loss
distillation_kl_loss loss/distillation_kl_loss
model_loss loss/model_loss
kl model/kl
prior_ent model/prior_ent
model_grad_norm model/grad_norm
actor_loss actor/loss
actor_ent actor/ent
reward_mean actor/reward_mean
value_loss critic/value_loss
target_mean critic/target_mean
beta schedule/beta
eta schedule/eta
kl_scale schedule/kl_scale
actor_entropy_scale schedule/actor_entropy_scale
fps speed/fps
seconds_update speed/seconds_update
share_env speed/share_env
replay_steps replay/steps
latent_mig latent/mig
bad_updates health/bad_updates
env_restarts health/env_restarts
curiosity model/curiosity
curiosity_loss loss/curiosity_loss
mine/curiosity mine/curiosity
"""
PAIRS = [line.split() for line in TAGS.split("\n") if line]


@pytest.mark.parametrize(("name", "tag"), PAIRS)
def test_a_name_has_its_group_in_front(name, tag):
    assert scalar_tag(name) == tag


def test_groups_are_those_of_the_table_and_no_tag_is_there_twice():
    assert {group_of(name) for name, _ in PAIRS if "/" not in name} == set(NAMES)
    assert len({tag for _, tag in PAIRS}) == len(PAIRS)


def test_pictures_and_videos_have_groups_of_their_own():
    assert picture_tag("eval_openl", "video") == "video/eval_openl"
    assert picture_tag("mine/sketch", "image") == "mine/sketch"


def test_every_curve_of_the_pages_is_one_that_is_logged():
    tags = {tag for _, tag in PAIRS}
    for charts in LAYOUT.values():
        for chart in charts:
            for expression in chart.tags:
                assert any(re.fullmatch(expression, tag) for tag in tags), expression


@pytest.fixture
def board(tmp_path):
    c = config.parse(["--seed", "3", "--z_dim", "7", "--envs", "1", "--traverse", "True"])
    sink = TensorBoardSink(tmp_path, hparams=c, chosen=c.choices())
    sink.open()
    sink.close()
    return EventAccumulator(str(tmp_path)).Reload()


def test_the_first_page_has_return_losses_and_speed(board):
    [event] = board.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [page.title for page in layout.category] == list(LAYOUT)
    first = layout.category[0]
    assert [chart.title for chart in first.chart][::2] == [
        "evaluation's return",
        "image loss",
        "actor's and critic's loss",
        "where the time goes, shares",
    ]
    assert "^eval/return$" in first.chart[0].multiline.tag
    metadata = board.SummaryMetadata("custom_scalars__config__")
    assert metadata.plugin_data.plugin_name == "custom_scalars"


def test_the_settings_are_the_first_columns_and_what_is_no_default(board):
    content = board.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    told = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
    assert set(told) == {*FIRST, "z_dim", "traverse"}
    assert told["task"].string_value == config.parse([]).task
    assert (told["seed"].number_value, told["z_dim"].number_value) == (3, 7)
    assert told["traverse"].bool_value is True


def test_the_table_of_settings_has_every_key_and_the_final_return(board):
    content = board.SummaryMetadata(hparams_metadata.EXPERIMENT_TAG).plugin_data.content
    table = hparams_metadata.parse_experiment_plugin_data(content)
    assert {info.name for info in table.hparam_infos} == set(config.load_keys())
    assert {info.name for info in table.hparam_infos if info.differs} == set(FIRST)
    assert table.metric_infos[0].name.tag == scalar_tag("eval_return")
