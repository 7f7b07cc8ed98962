"""A small writer of SVG. Colours follow the reader's scheme, light or dark; text is text."""

from html import escape

# One colour for each system, in both schemes. The floor is grey: it is no competitor.
COLOURS = {
    "fanfare": ("#d6336c", "#ff6b9a"),
    "floor": ("#868e96", "#909ba6"),
    "nchan": ("#2b8a3e", "#69db7c"),
    "durable": ("#1864ab", "#74c0fc"),
    "pushpin": ("#b35900", "#ffb454"),
    "mercure": ("#6741d9", "#b197fc"),
}


def style():
    light = "".join(f".{key}{{--c:{colours[0]}}}" for key, colours in COLOURS.items())
    dark = "".join(f".{key}{{--c:{colours[1]}}}" for key, colours in COLOURS.items())
    return (
        "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:var(--ink)}"
        ".title{font-size:15px;font-weight:600}.head{font-weight:600}.soft{fill:var(--soft)}"
        ".end{text-anchor:end}.mid{text-anchor:middle}.strong{font-weight:600}"
        ".bar{fill:var(--c)}.line{stroke:var(--c);fill:none;stroke-width:2}.dot{fill:var(--c)}"
        ".ring{fill:var(--page);stroke:var(--c);stroke-width:2}"
        ".whisker{stroke:var(--ink);stroke-width:1;opacity:.65}.grid{stroke:var(--grid);stroke-width:1}"
        ".page{fill:var(--page)}"
        f"svg{{--ink:#1f2328;--soft:#656d76;--grid:#d8dee4;--page:#fff}}{light}"
        f"@media(prefers-color-scheme:dark){{svg{{--ink:#e6edf3;--soft:#9198a1;--grid:#30363d;--page:#0d1117}}{dark}}}"
    )


class Drawing:
    def __init__(self, width, title, description):
        self.width = width
        self.title = title
        self.description = description
        self.parts = []

    def add(self, name, content=None, **attributes):
        text = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value_of(value))}"'
                       for key, value in attributes.items() if value is not None)
        self.parts.append(f"<{name}{text}/>" if content is None else f"<{name}{text}>{escape(content)}</{name}>")

    def text(self, x, y, content, class_=None):
        self.add("text", content, x=x, y=y, class_=class_)

    def line(self, x1, y1, x2, y2, class_):
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)

    def save(self, path, height):
        body = "\n".join(self.parts)
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height:.0f}" width="{self.width}" '
            f'height="{height:.0f}" role="img" aria-labelledby="t d">\n'
            f'<title id="t">{escape(self.title)}</title>\n<desc id="d">{escape(self.description)}</desc>\n'
            f"<style>{style()}</style>\n"
            f'<rect class="page" width="100%" height="100%" rx="6"/>\n{body}\n</svg>\n')


def value_of(value):
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
