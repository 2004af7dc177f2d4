"""Inputs that real tools and people produce, written small."""

import pytest

from diffusion.data.corpus import load_documents
from diffusion.data.report import Report
from diffusion.errors import UserError


@pytest.fixture
def read(tmp_path):
    """Reads a data set as a whole and as a stream, which have to agree: (name, its bytes or text; None: it
    is there; options) -> (documents, what is said), or (None, the sentence that refuses it)."""

    def read(name: str, content: bytes | str | None = None, **how) -> tuple[list[str] | None, str]:
        path = tmp_path / name
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        skip_bad, found = how.pop("skip_bad", False), []
        for streaming in (False, True):
            report = Report(skip_bad=skip_bad)
            try:
                documents = list(
                    load_documents(str(path), streaming=streaming, report=report, **how)
                )
                said = str(report)
            except UserError as error:
                documents, said = None, str(error)
            assert "\n" not in said and "Traceback" not in said
            found.append((documents, said.replace(f"{tmp_path}/", "")))
        assert found[0] == found[1]
        return found[0]

    return read
