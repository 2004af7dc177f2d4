"""The encoder that RoBERTa's form is given has the hidden states it had as a BERT."""

import torch
from helpers.models import SENTENCES
from transformers import BertConfig, BertModel

from diffusion.models.tokenizers import train_tokenizer
from studies.bert_as_roberta import as_roberta


def test_hidden_states_and_output():
    tokenizer = train_tokenizer(SENTENCES, 300, pad_id=0)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    bert = BertModel(config, add_pooling_layer=False).eval()
    roberta = as_roberta(bert, tokenizer, 30)
    ids = torch.tensor([[1, *range(50, 70), 2]])
    with torch.no_grad():
        expected = bert(ids).last_hidden_state
        hidden = roberta.roberta(ids).last_hidden_state
        torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)
        head = torch.nn.functional.layer_norm(torch.nn.functional.gelu(expected), (16,))
        logits = head @ bert.embeddings.word_embeddings.weight.T
        torch.testing.assert_close(roberta(ids).logits, logits, rtol=1e-4, atol=1e-4)
