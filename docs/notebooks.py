"""Hook of MkDocs that makes a page of each notebook: its text, its code, and its outputs as they are in the file."""

import html
import json
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


class NotebookFile(File):
    """A notebook, which is a page like those in Markdown."""

    def is_documentation_page(self) -> bool:
        """Returns that it becomes a page, and is not copied."""
        return True


def on_files(files: Files, **kwargs: Any) -> Files:
    """Returns the files of the site, with notebooks as pages."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        files.append(NotebookFile(file.src_uri, file.src_dir, file.dest_dir, file.use_directory_urls))
    return files


def on_page_read_source(page: Page, **kwargs: Any) -> str | None:
    """Returns the Markdown of a notebook; other pages are read as they are."""
    if not page.file.src_uri.endswith(".ipynb"):
        return None
    return "\n\n".join(map(_cell, json.loads(page.file.content_string)["cells"]))


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *map(_output, cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    """Returns an output as HTML: the richest form that the file has."""
    data = output.get("data", {"text/plain": output.get("text", [])})
    for kind in ("text/html", "image/svg+xml"):
        if kind in data:
            lines = "".join(data[kind]).splitlines()
            shown = "\n".join(line for line in lines if line.strip())  # a blank line would end the block of HTML
            return f"<div>{shown}</div>"
    text = html.escape("".join(data["text/plain"]).rstrip("\n"))
    return f'<pre class="output">{text}</pre>'
