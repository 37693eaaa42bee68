"""Fine-tuning: which weights are taken, and when none are."""

import pytest
import torch

from integration.toy_trainer import Batches, trainer, uneven_batches
from litseq.callbacks import CompileLayers, StartFrom
from litseq.errors import CheckpointError, UsageError
from litseq.models import load_module
from litseq.text import Tokenizer
from models.toy_batches import decoder_only_batch, tiny_decoder_only, tiny_encoder_decoder


class Texts(Batches):
    def __init__(self, text="a b c d e f g h i j k l m n o p q r"):
        super().__init__(decoder_only_batch, uneven_batches(3), val=uneven_batches(1))
        self.tokenizer = Tokenizer.train([text], vocab_size=23, kind="char")


def fit(module, *callbacks, data=None, checkpoint=None, **options):
    run = trainer(callbacks=list(callbacks), limit_val_batches=0, **options)
    run.fit(module, data or Texts(), ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    return run


def same(left, right):
    return all(torch.equal(left.state_dict()[name], value) for name, value in right.state_dict().items())


@pytest.fixture
def pretrained(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "pretrained.ckpt"
    fit(tiny_decoder_only(learning_rate=1e-2, warmup_steps=1)).save_checkpoint(path)
    return path


def test_weights_are_taken_and_nothing_else(pretrained):
    seen = []

    class Look(StartFrom):
        def on_train_start(self, trainer, pl_module):
            seen.append(
                (same(load_module(pretrained), pl_module), trainer.global_step, len(pl_module.optimizers().state))
            )

    torch.manual_seed(2)
    module = tiny_decoder_only(learning_rate=1e-2, warmup_steps=1)
    assert not same(load_module(pretrained), module)
    fit(module, Look(str(pretrained)))
    assert seen == [(True, 0, 0)]
    assert not same(load_module(pretrained), module)  # it has trained on


@pytest.mark.filterwarnings("ignore")  # dynamo hides its own, which does not help where they are errors
def test_compiled_layers_take_them_too(pretrained):
    module = tiny_decoder_only(learning_rate=0.0)
    fit(module, CompileLayers(backend="eager"), StartFrom(str(pretrained)), max_steps=1)
    assert same(load_module(pretrained), module)


def test_a_resumed_training_keeps_its_own(pretrained, tmp_path):
    own = tmp_path / "own.ckpt"
    torch.manual_seed(3)
    fit(tiny_decoder_only(learning_rate=0.0)).save_checkpoint(own)
    module = tiny_decoder_only(learning_rate=0.0)
    fit(module, StartFrom(str(pretrained)), checkpoint=str(own), max_epochs=2)
    assert same(load_module(own), module)


def test_another_model_or_tokenizer_is_refused(pretrained, tmp_path):
    start = StartFrom(str(pretrained))
    with pytest.raises(
        CheckpointError, match=r"is of another model: decoder\..* is .* there and .* here.* and more; build"
    ):
        fit(tiny_decoder_only(embed_dim=32), start)
    with pytest.raises(UsageError, match=r"give the data module tokenizer= the tokenizer\.json"):
        fit(tiny_decoder_only(), start, data=Texts("z y x w v u t s r q p o n m l k j i"))
    with pytest.raises(CheckpointError, match=r"is missing there"):
        fit(tiny_encoder_decoder(), start)
    with pytest.raises(CheckpointError, match="does not exist"):
        fit(tiny_decoder_only(), StartFrom(str(tmp_path / "none.ckpt")))
