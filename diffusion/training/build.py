"""What a run trains with: the text, the tokenizer, the model, the collator."""

import contextlib
import functools
import itertools
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import transformers
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import GPT2Config, RobertaConfig

from diffusion import hardware
from diffusion.cli.console import say
from diffusion.collator import (
    AnswerCollator,
    CausalCollator,
    DiffusionCollator,
    GaussianCollator,
    MixCollator,
    TwoPassCollator,
)
from diffusion.data import blanks, conversations, corpus, packing
from diffusion.data.packing import Blocks
from diffusion.data.report import Report, counted
from diffusion.errors import UserError
from diffusion.models import heads, layouts, loading, tokenizers
from diffusion.models.backbone import Backbone
from diffusion.models.families import family
from diffusion.models.soft import SoftMask, load_soft_mask
from diffusion.noise import Absorbing, Noise
from diffusion.training import vocabulary
from diffusion.training.arguments import ModelArguments, Run
from diffusion.training.checks import chosen_noise, reported

_ROBERTA_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_GPT2_DROPOUT = ("resid_pdrop", "embd_pdrop", "attn_pdrop")

# ---------------------------------------------------------------- text


@dataclass
class Text:
    """Documents (with --chat conversations, with --infill texts with blanks), and the reports of the data sets that they come from. With
    --streaming they can be iterated once, and the reports are complete after that."""

    documents: Iterable
    reports: list[Report]

    def report(self) -> str:
        """What was read, for people.

        Raises:
            UserError: too many bad rows.
        """
        for report in self.reports:
            report.check()
        return str(functools.reduce(operator.add, self.reports))


def read(run: Run) -> tuple[Text | None, Text | None]:
    """(training text, or None with --evaluate_only; validation text, or None when blocks are to be held
    out)."""
    data, train = run.data, not run.args.evaluate_only

    def text(names: list[str], split: str) -> Text:
        reports = [Report(skip_bad=data.skip_bad) for _ in names]
        found = [documents(*given, split) for given in zip(names, reports, strict=True)]
        chained = itertools.chain(*found)
        read = Text(chained if data.streaming else list(chained), reports)
        if not data.streaming:
            say(("" if split == "train" else f"{split} text: ") + read.report())
        return read

    def documents(name: str, report: Report, split: str) -> Iterable:
        where = {"column": data.column, "report": report}
        if name in data.dataset:
            where |= {"config": data.dataset_config, "revision": data.dataset_revision}
        if data.chat:
            return conversations.load_conversations(name, split, **where)
        if data.infill:
            return blanks.load_blanks(name, split, **where)
        where |= {"dataset_dir": data.dataset_dir, "streaming": data.streaming}
        return corpus.load_documents(name, split, wikitext=data.wikitext, **where)

    found = text(data.dataset, "train") if train else None
    evaluated = data.eval_dataset
    if evaluated is None and corpus.WIKITEXT in data.dataset:
        evaluated = corpus.WIKITEXT
    elif evaluated is None and not train:
        evaluated = data.dataset[0]
    return found, None if evaluated is None else text([evaluated], data.eval_split)


def pack(
    run: Run, text: Text | None, eval_text: Text | None, tokenizer
) -> tuple[Blocks | None, Blocks]:
    """(training blocks, or None without a training text; validation blocks).

    Raises:
        UserError: too little text.
    """
    data, most = run.data, run.data.max_eval_blocks

    def packed(text: Text, most: int | None, what: str) -> Blocks:
        given = text.documents, tokenizer, data.block_size, what, most
        if data.chat:
            blocks = conversations.pack_conversations(*given)
        elif data.infill:
            blocks = blanks.pack_blanks(*given)
        else:
            blocks = Blocks(packing.pack(*given))
        blocks.source = text.report()
        if data.streaming:
            say(f"{what}: {blocks.source}, as far as it was needed")
        return blocks

    blocks = None
    if text is not None:
        blocks = packed(text, data.max_train_samples, "data set")
    if eval_text is not None:
        found = packed(eval_text, most if data.streaming else None, "validation set")
        # Spread over the whole text, not only its beginning.
        keep = torch.linspace(0, len(found) - 1, min(len(found), most))
        return blocks, found.take(keep.round().long())
    held_out = min(max(2, len(blocks) // 50), most)  # 2 for an error
    if len(blocks) <= held_out:
        raise UserError(
            f"the data set fills only {counted(len(blocks), 'block')}, none is left for validation; give "
            "more text or an --eval_dataset"
        )
    say(f"no --eval_dataset: the last {held_out} blocks are held out for validation")
    return blocks.take(slice(-held_out)), blocks.take(slice(-held_out, None))


def describe(run: Run, model, blocks: Blocks | None, eval_blocks: Blocks) -> str:
    """One line for the user: the sizes of model and text, and what computes."""
    amount = f"{len(eval_blocks)} blocks of the {run.data.eval_split} split"
    if blocks is not None:
        amount = f"{blocks.tokens / 1e6:.2f} M training tokens in {len(blocks)} blocks"
    return (
        f"{model.num_parameters() / 1e6:.1f} M parameters; {amount}; "
        f"{hardware.describe(run.args.device, run.args.compute_dtype)}"
    )


# ---------------------------------------------------------------- batches


def make_collator(run: Run, model, tokenizer):
    """The collator of the objective: clean blocks -> batches."""
    if run.causal:
        return CausalCollator()
    diffusion, args = run.diffusion, run.args
    # GPT-2's beginning is its end, which a model has to learn to write.
    never = {None, tokenizer.eos_token_id}
    settings = {
        "noise": tokenizers.noise_of(tokenizer, model.config, "the model"),
        "fixed_ids": sorted({tokenizer.bos_token_id, tokenizer.pad_token_id} - never),
        "prefix_len": run.prefix_len,
        "schedule": diffusion.schedule,
        "seed": args.seed,
        "global_batch": args.global_batch,
    }
    if run.mixed:
        settings |= {"mix": run.mix, "shift": Backbone(model).shift}
        settings |= {"causal_weight": diffusion.causal_weight, "micro_batch": args.micro_batch}
        collate = MixCollator(**settings)
    elif settings["noise"].name == "gaussian":
        check_embeddings(model, settings["noise"], run.model.model, "Gaussian noise")
        del settings["schedule"]
        return GaussianCollator(**settings)
    else:
        settings |= {"mask_schedule": diffusion.mask_schedule, "loss": diffusion.loss}
        collate = (AnswerCollator if run.data.partly else DiffusionCollator)(**settings)
    if not diffusion.soft_masking:
        return collate
    return TwoPassCollator(collate, diffusion.soft_share, args.seed, args.micro_batch)


# ---------------------------------------------------------------- soft-masking


@torch.no_grad()
def check_embeddings(model: torch.nn.Module, noise: Noise, name: str, what: str) -> None:
    """For ``what``: refuse a model that does not read word embeddings as it reads the tokens they stand for."""
    table, was_training, equal = model.get_input_embeddings(), model.training, False
    backbone = Backbone(model.eval())
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        ids = torch.tensor([[5, 6, 7, noise.mask_id]], device=table.weight.device)
        queried = noise.noisy(ids)
        plain, mixed = backbone(ids, queried), backbone(ids, queried, inputs_embeds=table(ids))
        equal = torch.allclose(plain.float(), mixed.float(), rtol=1e-2, atol=1e-2)
    model.train(was_training)
    if not equal:
        raise UserError(
            f"{name} cannot have {what}: models of type {model.config.model_type} do not read "
            "word embeddings as they read the tokens they stand for"
        )


def make_soft_mask(run: Run, model, tokenizer) -> SoftMask | None:
    """The scalars of ``--soft_masking``, those of the model where it was trained with it; None
    without the flag. With --evaluate_only a model keeps what it was trained with.

    Raises:
        UserError: a model without word embeddings to mix, or a smaller vocabulary than ``--soft_k``.
    """
    options, diffusion = run.model, run.diffusion
    if run.args.evaluate_only:
        return load_soft_mask(model, options.model)
    if not diffusion.soft_masking:
        return None
    check_embeddings(model, Absorbing.of(tokenizer), options.model, "soft-masking")
    if diffusion.soft_k > model.config.vocab_size:
        raise UserError(
            f"--soft_k {diffusion.soft_k} exceeds the {model.config.vocab_size} tokens of the model"
        )
    if "soft" not in loading.diffusion_settings(model.config):
        starts = diffusion.soft_start, diffusion.soft_slope, -diffusion.soft_middle
        return SoftMask(diffusion.soft_k, diffusion.mixing, *starts)
    say(f"resuming the soft-masking of {options.model}, from its --soft_start, _middle and _slope")
    soft = load_soft_mask(model, options.model).requires_grad_(True).train()
    if (soft.k, soft.mixing) != (diffusion.soft_k, diffusion.mixing):
        raise UserError(
            f"{options.model} was trained with --soft_k {soft.k} --mixing {soft.mixing}; give the same"
        )
    return soft


# ---------------------------------------------------------------- model


def build_model(run: Run, text: Text | None) -> tuple:
    """(model, tokenizer), pretrained or from random weights, the settings of diffusion noted in
    the model's config.

    Raises:
        UserError: a model or tokenizer that is unavailable, or an attention it does not have.
    """
    options, args = run.model, run.args
    if run.size is None:
        model, tokenizer = _load_base(options, run.causal)
        if args.evaluate_only and hasattr(model, "new_head"):
            raise UserError(f"{options.model} has no head to evaluate; leave out --evaluate_only")
        if options.new_vocabulary is not None:
            tokenizer = _new_vocabulary(run, model, tokenizer, text.documents)
        if options.dropout is not None:
            _set_dropout(model, options.dropout)
    else:
        tokenizer = _tokenizer_for(run, text.documents)
        model = _random_model(run.size, tokenizer, run.data.block_size, options.dropout or 0.0)
    model.config.diffusion = _settings(run, model.config)
    attention = options.attn_implementation
    if attention == "auto" and run.mixed:
        attention = layouts.ATTENTION if family(model.config).encoder else "sdpa"
    elif attention == "auto":
        attention = "eager" if args.device.type == "cpu" else "sdpa"
    with reported("attn_implementation"):
        model.set_attn_implementation(attention)
    if args.recomputed:
        earlier = model.gradient_checkpointing_enable  # the name in earlier versions
        with reported("gradient_checkpointing"):
            getattr(model, "activation_checkpointing_enable", earlier)()
    if args.compiled:  # the code around the layers would be compiled anew for each number of masks
        model.base_model.compile()
    return model, tokenizer


def _settings(run: Run, config) -> dict:
    """The settings of diffusion for a model's config, from the flags and its training before."""
    before, causal = loading.diffusion_settings(config), run.causal
    shift = before.get("shift", family(config).decoder)
    shift = {"yes": True, "no": False}.get(run.diffusion.shift, shift)
    settings = {
        "objective": run.diffusion.objective,
        "shift": shift or causal,
        "prefix_len": run.prefix_len,
        "layouts": {"causal": 1.0} if causal else run.mix,
        "tokens_seen": before.get("tokens_seen", 0),
    }
    if run.data.chat:
        settings["chat"] = True
    noise = chosen_noise(run)
    if noise["name"] != "absorbing":
        settings |= {"noise": noise.pop("name"), **noise}
    if "soft" in before and (run.diffusion.soft_masking or run.args.evaluate_only):
        settings["soft"] = before["soft"]
    elif "soft" in before:
        say(f"note: without --soft_masking that of {run.model.model} is lost")
    return settings


def _tokenizer_for(run: Run, documents):
    """The tokenizer of a model from random weights."""
    if run.model.tokenizer:
        return tokenizers.load_tokenizer(run.model.tokenizer)
    return _trained_tokenizer(run, documents, run.size["vocab"])


def _trained_tokenizer(run: Run, documents, vocab_size: int, pad_id: int = 1):
    """A tokenizer made from the training text, or that of the checkpoint to resume from."""
    if run.args.resume_from_checkpoint:
        return tokenizers.load_tokenizer(run.args.resume_from_checkpoint)
    say(f"training a byte-level BPE of {vocab_size} tokens on the training text")
    tokenizer = None
    if run.args.process_index == 0:
        tokenizer = tokenizers.train_tokenizer(documents, vocab_size, pad_id)
    # The other processes get the same one, instead of training their own.
    return broadcast_object_list([tokenizer])[0]


def _new_vocabulary(run: Run, model, tokenizer, documents: list[str]):
    """Replace the vocabulary of a model by one made from the training text; returns its tokenizer."""
    # Some families number positions from the id of <pad>, so it must not change.
    pad_id = model.config.pad_token_id
    if pad_id is None or pad_id > 4:
        if family(model.config).after_padding:
            raise UserError(
                f"--new_vocabulary needs the padding token of {run.model.model} among the first five "
                f"ids, and it is {pad_id}; leave it out"
            )
        pad_id = 1
    new = _trained_tokenizer(run, documents, run.model.new_vocabulary, pad_id)
    vocabulary.move(model, tokenizer, new, run.args.seed)
    before, now = (vocabulary.bytes_per_token(t, documents) for t in (tokenizer, new))
    say(f"new vocabulary of {len(new)} tokens: {now:.2f} bytes per token, {before:.2f} before")
    return new


def _random_model(size: dict, tokenizer, block_size: int, dropout: float):
    """A RoBERTa or a GPT-2 of one body shape, with room for ``block_size`` tokens."""
    # A short text has fewer pieces than asked for; a given tokenizer has its own number.
    shape = {"vocab_size": len(tokenizer), "hidden_size": size["width"]}
    shape |= {"num_hidden_layers": size["layers"], "num_attention_heads": size["heads"]}
    shape |= {f"{x}_token_id": getattr(tokenizer, f"{x}_token_id") for x in ("pad", "bos", "eos")}
    if size["type"] == "gpt2":
        shape |= {"max_position_embeddings": block_size} | dict.fromkeys(_GPT2_DROPOUT, dropout)
        # The activation is GPT-2's own, in one fused kernel.
        config = GPT2Config(**shape, activation_function="gelu_pytorch_tanh")
        return transformers.AutoModelForCausalLM.from_config(config)
    shape |= {"max_position_embeddings": block_size + tokenizer.pad_token_id + 1}
    shape |= {"intermediate_size": 4 * size["width"]} | dict.fromkeys(_ROBERTA_DROPOUT, dropout)
    config = RobertaConfig(**shape, type_vocab_size=1, layer_norm_eps=1e-5)
    return transformers.AutoModelForMaskedLM.from_config(config)


def _load_base(options: ModelArguments, causal: bool):
    """(model, tokenizer) of ``--model``. A decoder that is to become a denoiser sees both sides and,
    where its tokenizer has none, gets a ``<mask>`` (DiffuLLaMA, arXiv:2410.17891)."""
    name, access = options.model, options.access
    config = loading.load_config(name, access)
    decoder, place, allowed = family(config).decoder, name, access
    if options.tokenizer:
        place, allowed = options.tokenizer, replace(access, revision=None)
    if decoder and causal:
        tokenizer = tokenizers.load_tokenizer(place, False, allowed)
        return loading.load_causal_lm(name, tokenizer, access), tokenizer
    tokenizer = tokenizers.load_tokenizer(place, True, allowed, config, add_mask=decoder)
    model = loading.load_masked_lm(name, None, access, base=True)
    if decoder and len(tokenizer) > config.vocab_size:
        say(f"{name} gets a {tokenizer.mask_token} token, which starts as the mean of all others")
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.weight[-1] = table.weight[:-1].mean(0)
    loading.check_vocabulary(model.config, tokenizer, name)
    Backbone(model).try_out(name)
    if causal:
        Backbone(model).check_causal(name)
    return model, tokenizer


def _set_dropout(model, rate: float) -> None:
    for name in (*_ROBERTA_DROPOUT, *_GPT2_DROPOUT):
        if hasattr(model.config, name):
            setattr(model.config, name, rate)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate


@torch.no_grad()
def set_output_bias(model, blocks: Tensor) -> None:
    """Start the output bias at the log frequencies of the tokens, which training would otherwise
    spend its first hundreds of steps on."""
    bias = heads.output_bias(model)
    if bias is None:  # GPT-2 has none
        return
    counts = torch.bincount(blocks.flatten().long(), minlength=len(bias)).double() + 0.5
    bias.copy_((counts / counts.sum()).log())
