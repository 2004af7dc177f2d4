"""Write, touch and compare texts on a page in the browser. Nothing leaves the machine.

python demo.py                                        # http://127.0.0.1:7860
python demo.py --model runs/mine --port 8000
uv run --extra demo demo.py
"""

import os
from dataclasses import dataclass

from diffusion.cli.checks import check_values
from diffusion.cli.console import prepare_streams, say
from diffusion.cli.flags import SHOWN, flag, parse_flags
from diffusion.cli.options import Access, PairOptions
from diffusion.errors import UserError, run


@dataclass
class DemoOptions(PairOptions):
    port: int | None = flag(
        None, "Port of the page; default: the first free one from 7860.", range=(1, 65535),
        group=SHOWN,
    )  # fmt: skip
    share: bool = flag(
        False, "Also give the page a public address, through a server of Gradio.", group=SHOWN
    )
    concurrency: int = flag(
        1, "Requests worked on at once. With more than one, measured seconds include waiting for "
        "each other.", range=(1, 64), group=SHOWN,
    )  # fmt: skip


def main() -> None:
    # 1. Flags, and everything that can be refused without a model.
    args, access = parse_flags((DemoOptions, Access), __doc__)
    prepare_streams()
    check_values(args)

    # 2. The models. gradio and torch take seconds to import, and --help needs neither.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise UserError(
            "the page needs gradio; install it with pip install -e '.[demo]', or start the page with "
            "uv run --extra demo demo.py"
        ) from None
    from diffusion.measure import load_pair
    from diffusion.page.app import Page
    from diffusion.page.service import Service

    pair = load_pair(args.model, args.baseline, args.device, args.dtype, access)
    service = Service(*pair)

    # 3. The page, until Ctrl-C.
    page = Page(service, args.concurrency)
    try:
        _, local, public = page.launch(
            server_port=args.port, share=args.share, prevent_thread_lock=True
        )
    except OSError as error:
        raise UserError(f"the page cannot be served ({error}); give another --port") from None
    say(f"the page is at {local}" + (f" and {public}" if public else "") + "; Ctrl-C ends it")
    page.blocks.block_thread()


if __name__ == "__main__":
    run(main)
