"""A frozen sentence encoder in place of hashed n-grams (lm/encoder.py, `--encoder`)."""
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from data import DataError
from lm.encoder import encoder_of
from perception import HideNgrams, HideSentences, Reader, reading

WORDS = ["[PAD]", "[UNK]", "where", "is", "my", "parcel", "money", "thanks"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A tiny untrained BERT as a Hugging Face folder."""
    path = str(tmp_path_factory.mktemp("encoder"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16)
    BertModel(config).save_pretrained(path)
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(path)
    return path


def test_a_vector_does_not_depend_on_what_else_is_encoded(folder):
    alone = encoder_of(folder)._encode(["where is my parcel"])
    padded = encoder_of(folder)._encode(["where is my parcel", "thanks " * 20])[:1]
    assert torch.equal(alone, padded)            # to the last bit: vectors lie on a grid
    assert alone.square().mean().item() == pytest.approx(1, abs=1e-2)


def test_a_sentence_is_encoded_once_and_an_empty_one_is_zero(folder, monkeypatch):
    encoder = encoder_of(folder)
    first = encoder(["my money", ""])
    monkeypatch.setattr(encoder, "model", None)  # it is not asked again
    assert torch.equal(encoder(["my money", ""]), first)
    assert not first[1].any()


def test_the_encoder_is_not_trained_and_not_saved(folder):
    reader = Reader(8, encoder=folder)
    assert not any("encoder" in name for name in reader.state_dict())
    before = encoder_of(folder).model.embeddings.word_embeddings.weight.clone()
    reader(["where is my parcel?"]).sum().backward()
    assert reader.words.map.weight.grad is not None
    assert torch.equal(before, encoder_of(folder).model.embeddings.word_embeddings.weight)


def test_what_is_hidden_is_not_read(folder):
    reader = Reader(8, encoder=folder)
    text = "where is my parcel? thanks"
    seen = reader([text])
    for hiding in (HideSentences(1.0, 0), HideNgrams(0.5, 0)):
        with reading(reader, hiding):
            assert not torch.allclose(reader([text]), seen)


@pytest.mark.parametrize("broken", ["missing", "garbled"])
def test_a_folder_without_an_encoder_is_refused_by_flag(broken, tmp_path):
    if broken == "garbled":
        (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(DataError, match="^--encoder "):
        encoder_of(str(tmp_path))
