"""The model, the tokenizer and the blocks of text that a run trains with."""

import os
import shutil

import torch
import transformers
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import GPT2Config, RobertaConfig

from diffusion.cli.console import say
from diffusion.collator import (
    CausalCollator,
    ChatCollator,
    DiffusionCollator,
    MixCollator,
    TwoPassCollator,
)
from diffusion.errors import UserError, first_line
from diffusion.models import layouts, loading, tokenizers
from diffusion.models.backbone import Backbone
from diffusion.models.families import family
from diffusion.models.soft import SoftMask, load_soft_mask
from diffusion.noise import Absorbing
from diffusion.training import lora
from diffusion.training.arguments import (
    SOFT_STARTS,
    DiffusionArguments,
    ModelArguments,
    parse_layouts,
    parse_lora,
    parse_size,
)
from diffusion.training.checks import chosen_noise


@torch.no_grad()
def check_embeddings(model: torch.nn.Module, noise: Absorbing, name: str) -> None:
    """Refuse a model that answers otherwise when it is given word embeddings than when it is given
    the ids they stand for: what is mixed would not be what it reads.

    Raises:
        UserError: it does, or takes none.
    """
    table, backbone, wrong = model.get_input_embeddings(), Backbone(model), True
    if isinstance(table, torch.nn.Embedding):
        was_training = model.training
        model.eval()
        ids = torch.full((1, 4), noise.mask_id, device=table.weight.device)
        ids[0, 1:3] = torch.arange(5, 7)
        asked = noise.noisy(ids)
        asked[0, 0] = False  # which a shifted model has no slot for
        try:
            plain, mixed = backbone(ids, asked), backbone(ids, asked, inputs_embeds=table(ids))
            wrong = not torch.allclose(plain.float(), mixed.float(), rtol=1e-2, atol=1e-2)
        except (TypeError, ValueError):
            pass
        model.train(was_training)
    if wrong:
        raise UserError(
            f"{name} cannot have soft-masking: models of type {model.config.model_type} do not read "
            "word embeddings as they read the tokens they stand for"
        )


def make_soft_mask(options: ModelArguments, diffusion: DiffusionArguments, args, model, tokenizer):
    """The scalars of ``--soft_masking``, those of the model where it has been trained so already;
    None without the flag. What is only evaluated is read as it was trained.

    Raises:
        UserError: a model without word embeddings to mix, or a smaller vocabulary than ``--soft_k``.
    """
    known = loading.diffusion_settings(model.config).get("soft")
    if args.evaluate_only:
        return load_soft_mask(model, options.place)
    if not diffusion.soft_masking:
        return None
    check_embeddings(model, Absorbing.of(tokenizer), options.model)
    if diffusion.soft_k > model.config.vocab_size:
        raise UserError(
            f"--soft_k {diffusion.soft_k} exceeds the {model.config.vocab_size} tokens of the model"
        )
    if known is not None:
        say(f"going on with the soft-masking of {options.model}")
        soft = load_soft_mask(model, options.place).requires_grad_(True).train()
        same = (soft.k, soft.mixing) == (diffusion.soft_k, diffusion.mixing)
        defaults = DiffusionArguments()
        if not same or any(getattr(diffusion, x) != getattr(defaults, x) for x in SOFT_STARTS):
            raise UserError(
                f"{options.model} was trained with --soft_k {soft.k} --mixing {soft.mixing}; give the "
                f"same, and no {', '.join('--' + name for name in SOFT_STARTS)}"
            )
        return soft
    starts = diffusion.soft_start, diffusion.soft_slope, -diffusion.soft_middle
    return SoftMask(diffusion.soft_k, diffusion.mixing, *starts)


def make_collator(model, tokenizer, diffusion: DiffusionArguments, args):
    """What turns clean blocks into the batches of the objective."""
    collate = _objective_collator(model, tokenizer, diffusion, args)
    if not diffusion.soft_masking:
        return collate
    micro_batch = args.train_batch_size * args.world_size
    return TwoPassCollator(collate, diffusion.soft_share, args.seed, micro_batch)


def _objective_collator(model, tokenizer, diffusion: DiffusionArguments, args):
    if diffusion.objective == "causal":
        return CausalCollator()
    noise = tokenizers.noise_of(tokenizer, model.config, "the model")
    # GPT-2's beginning is its end, which a model has to learn to write.
    never = {None, tokenizer.eos_token_id}
    fixed_ids = sorted({tokenizer.bos_token_id, tokenizer.pad_token_id} - never)
    settings = loading.diffusion_settings(model.config)
    make = ChatCollator if settings.get("chat") else DiffusionCollator
    if list(settings["layouts"]) != ["full"]:
        return MixCollator(
            noise,
            fixed_ids,
            settings["prefix_len"],
            settings["layouts"],
            settings["shift"],
            diffusion.causal_weight,
            diffusion.schedule,
            args.seed,
            args.global_batch,
            args.train_batch_size * args.world_size,
        )
    return make(
        noise,
        fixed_ids,
        settings["prefix_len"],
        diffusion.mask_schedule,
        diffusion.schedule,
        args.seed,
        args.global_batch,
    )


# ---------------------------------------------------------------- model


def random_model(size: dict, tokenizer, block_size: int, dropout: float):
    """A RoBERTa or a GPT-2 of one body shape, with room for ``block_size`` tokens."""
    # A short text has fewer pieces than asked for; a given tokenizer has its own number.
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if size["type"] == "gpt2":
        config = GPT2Config(
            **ids,
            n_embd=size["width"],
            n_layer=size["layers"],
            n_head=size["heads"],
            n_positions=block_size,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one fused kernel
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
        )
        return transformers.AutoModelForCausalLM.from_config(config)
    config = RobertaConfig(
        **ids,
        hidden_size=size["width"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        intermediate_size=4 * size["width"],
        max_position_embeddings=block_size + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return transformers.AutoModelForMaskedLM.from_config(config)


def build_model(options: ModelArguments, diffusion: DiffusionArguments, data, args, documents):
    """(model, tokenizer), pretrained or from random weights, the settings of diffusion noted in
    the model's config; with --lora a PeftModel of it.

    Raises:
        UserError: a model or tokenizer that cannot be had, or an attention it does not know.
    """
    if options.config is None:
        model, tokenizer = load_base(options, diffusion.objective == "causal")
        if options.dropout is not None:
            set_dropout(model, options.dropout)
    else:
        size = parse_size(options.config)
        if options.tokenizer:
            tokenizer = tokenizers.load_tokenizer(options.tokenizer)
        elif args.resume_from_checkpoint:
            tokenizer = tokenizers.load_tokenizer(args.resume_from_checkpoint)
        else:
            say(f"training a byte-level BPE of {size['vocab']} tokens on the training text")
            tokenizer = None
            if args.process_index == 0:
                tokenizer = tokenizers.train_tokenizer(documents, size["vocab"])
            # The others take it over, rather than hope to arrive at the same one.
            tokenizer = broadcast_object_list([tokenizer])[0]
        model = random_model(size, tokenizer, data.block_size, options.dropout or 0.0)
    before = loading.diffusion_settings(model.config)
    own = family(model.config)
    shift = {"yes": True, "no": False}.get(diffusion.shift, before.get("shift", own.decoder))
    causal = diffusion.objective == "causal"
    model.config.diffusion = {
        "objective": diffusion.objective,
        "shift": shift or causal,
        "prefix_len": 1 if causal or data.chat else diffusion.prefix_len,
        "layouts": {"causal": 1.0}
        if causal
        else parse_layouts(diffusion.layouts, data.block_size - diffusion.prefix_len),
        "tokens_seen": before.get("tokens_seen", 0),
    } | ({"chat": True} if data.chat else {})
    noise = chosen_noise(options, diffusion)
    if noise["name"] != "absorbing":
        model.config.diffusion |= {"noise": noise.pop("name"), **noise}
    if "soft" in before and (diffusion.soft_masking or args.evaluate_only):
        model.config.diffusion["soft"] = before["soft"]
    elif "soft" in before:
        say(f"note: without --soft_masking that of {options.model} is lost")
    _set_attention(model, options, args)
    adapted = lora.adapt(model, parse_lora(options.lora)) if options.lora else model
    if args.recomputed:
        if not model.supports_gradient_checkpointing:
            raise UserError(
                f"models of type {model.config.model_type} have no --gradient_checkpointing; leave "
                "it out"
            )
        # As earlier versions of the library call it.
        earlier = model.gradient_checkpointing_enable
        getattr(model, "activation_checkpointing_enable", earlier)()
    if args.compiled:
        compile_layers(model, args)
    return adapted, tokenizer


def _set_attention(model, options: ModelArguments, args) -> None:
    settings, attention = model.config.diffusion, options.attn_implementation
    causal = settings["objective"] == "causal"
    if attention == "auto" and not causal and list(settings["layouts"]) != ["full"]:
        attention = layouts.ATTENTION if family(model.config).encoder else "sdpa"
    elif attention == "auto":
        attention = "eager" if args.device.type == "cpu" else "sdpa"
    try:
        model.set_attn_implementation(attention)
    except (ValueError, ImportError) as error:
        raise UserError(f"--attn_implementation {attention}: {first_line(error)}") from None


def compile_layers(model, args) -> None:
    """Compile the layers in place. What is around them reads a number of masks that is another in
    each step, and would be compiled anew.

    Raises:
        UserError: a CPU without a C++ compiler.
    """
    inductor = args.compile_settings.get("backend", "inductor") == "inductor"
    compilers = (os.environ.get("CXX", "g++"), "clang++", "c++")
    if inductor and args.device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise UserError(
            "--torch_compile needs a C++ compiler on a CPU; install one such as g++, or leave it out"
        )
    model.base_model.compile(**args.compile_settings)


def load_base(options: ModelArguments, causal: bool):
    """(model, tokenizer) of ``--model``. A decoder that is to become a denoiser sees both sides and,
    where its tokenizer has none, gets a ``<mask>`` (DiffuLLaMA, arXiv:2410.17891).

    Raises:
        UserError: as `loading.load_masked_lm`, or a model that looks ahead and is to be trained
            causally.
    """
    name, config = options.model, loading.load_config(options.place, options.access)
    decoder = family(config).decoder
    if decoder and causal:
        tokenizer = tokenizers.load_tokenizer(
            options.tokenizer or options.place, False, options.access
        )
        return loading.load_causal_lm(options.place, tokenizer, options.access), tokenizer
    tokenizer = tokenizers.load_tokenizer(
        options.tokenizer or options.place, True, options.access, config, add_mask=decoder
    )
    model = loading.load_masked_lm(options.place, None, options.access, base=True)
    if decoder and len(tokenizer) > config.vocab_size:
        say(f"{name} gets a {tokenizer.mask_token} token, which begins as the mean of all others")
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.weight[-1] = table.weight[:-1].mean(0)
    loading.check_vocabulary(model.config, tokenizer, name)
    Backbone(model).try_out(name)
    if causal:
        Backbone(model).check_causal(name)
    return model, tokenizer


def set_dropout(model, rate: float) -> None:
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")  # RoBERTa's and its kin's
    for name in (*names, "resid_pdrop", "embd_pdrop", "attn_pdrop"):  # GPT-2's
        if hasattr(model.config, name):
            setattr(model.config, name, rate)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate


@torch.no_grad()
def set_output_bias(model, blocks: Tensor) -> None:
    """Start the output bias at the log frequencies of the tokens, which training would otherwise
    spend its first hundreds of steps on."""
    bias = model.get_output_embeddings().bias
    if bias is None:  # GPT-2 has none
        return
    counts = torch.bincount(blocks.flatten().long(), minlength=len(bias)).double() + 0.5
    bias.copy_((counts / counts.sum()).log())
