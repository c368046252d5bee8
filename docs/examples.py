"""Examples in docstrings, lines of `>>>`, as code on the pages: Markdown takes them for three quotations."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Puts them between fences. What is for doctest alone is left out."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called with each module, class, function and attribute."""
        if obj.docstring:
            fenced = re.sub(r"^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r" +# doctest: .*", "", fenced)
