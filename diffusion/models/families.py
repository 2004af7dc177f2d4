"""What a family of models has of its own: where positions begin, how many there are."""

# Model types that are told a token's place by a vector added to it, and nothing else.
_POSITIONED = {"roberta", "bert", "xlm-roberta", "camembert", "electra", "distilbert"}

# Model types without "roberta" in their name that number positions as RoBERTa does.
_ROBERTA_KIN = {"camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "xmod"}


def first_position(config) -> int:
    """The position id of the first token: RoBERTa and its kin count from pad_id + 1, others from 0."""
    kin = "roberta" in config.model_type or config.model_type in _ROBERTA_KIN
    return (config.pad_token_id or 0) + 1 if kin else 0


def max_length(config) -> int:
    """The most tokens a model of this configuration can see at once."""
    return config.max_position_embeddings - first_position(config)
