"""Tiny tokenizers of letters, made without a download, and tiny text encoders of real transformers classes."""

import string

from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    RobertaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

TOKENS = 12  # the longest prompt, in letters
PROMPTS = ("a red cat", "blue dogs", "one tree", "two boats")
VOCABULARY = 64


def prompts(batch: int) -> list[str]:
    """So many short prompts."""
    return [PROMPTS[index % len(PROMPTS)] for index in range(batch)]


def clip_tokenizer() -> CLIPTokenizer:
    """Letters, each also at the end of a word; the start and end tokens come last, as in CLIP."""
    pieces = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    words = (*pieces, "<|startoftext|>", "<|endoftext|>")
    return CLIPTokenizer(vocab=numbered(words), merges=[], model_max_length=TOKENS)


def clip_text_config(width: int = 32, projection: int = 32, act: str = "quick_gelu") -> CLIPTextConfig:
    """Two layers of `width`, with the tokens of `clip_tokenizer`."""
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        hidden_act=act,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )


def clip_text(width: int = 32) -> CLIPTextModel:
    """CLIP's text tower."""
    return CLIPTextModel(clip_text_config(width))


def clip_text_with_projection(width: int = 32) -> CLIPTextModelWithProjection:
    """CLIP's text tower with the projection of the pooled output, as wide as the tower."""
    return CLIPTextModelWithProjection(clip_text_config(width, width, act="gelu"))


def t5_tokenizer() -> T5Tokenizer:
    """Letters and the mark of a word's beginning, all equally likely."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in string.ascii_lowercase]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TOKENS)


def t5_settings(width: int) -> dict[str, int]:
    """Two layers of `width`."""
    return {
        "vocab_size": VOCABULARY,
        "d_model": width,
        "d_ff": 2 * width,
        "d_kv": width // 2,
        "num_layers": 2,
        "num_heads": 2,
        "relative_attention_num_buckets": 8,
    }


def t5(width: int = 32) -> T5EncoderModel:
    """T5's encoder."""
    return T5EncoderModel(T5Config(**t5_settings(width)))


def umt5(width: int = 32) -> UMT5EncoderModel:
    """The encoder of the multilingual T5 of Wan."""
    return UMT5EncoderModel(UMT5Config(**t5_settings(width)))


def roberta_tokenizer() -> RobertaTokenizer:
    """Letters; `Ġ` is how a space is written."""
    words = ("<pad>", "<unk>", "<s>", "</s>", "<mask>", "Ġ", *string.ascii_lowercase)
    return RobertaTokenizer(vocab=numbered(words), merges=[], model_max_length=TOKENS)


def gemma_tokenizer() -> GemmaTokenizer:
    """Letters and the mark of a space."""
    words = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase)
    return GemmaTokenizer(vocab=numbered(words), merges=[], model_max_length=TOKENS)


def gemma(width: int = 32) -> Gemma2Model:
    """The decoder that reads Sana's prompts."""
    return Gemma2Model(
        Gemma2Config(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=width // 2,
            max_position_embeddings=512,
        )
    )


def numbered(words: tuple[str, ...]) -> dict[str, int]:
    """Each word with its place."""
    return {word: index for index, word in enumerate(words)}
