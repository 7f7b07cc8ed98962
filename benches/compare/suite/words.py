"""How numbers are written."""

def plain(text):
    return " ".join(text.split())[:160].replace("|", "/").rstrip(".")


def flaws(cell):
    return [f"{cell.total(key):,}" for key in ("lost", "duplicates", "disorder")]


def digits(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def micro(number):
    return f"{digits(number.median)} µs" if number else "–"


def spread(number, unit):
    if not number:
        return "–"
    if number.rounds < 2:
        return f"{digits(number.median)} {unit}"
    return f"{digits(number.median)} {unit} ({digits(number.low)}–{digits(number.high)})"


def relation(ours, theirs):
    return f"{ours.median / theirs.median:.2f}" if ours and theirs and theirs.median else "–"


def count_of(value):
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value / 1e3:.1f} k" if value >= 1e4 else f"{value:,.0f}"


def count(number):
    return count_of(number.median) if number else "–"


def between(number, text):
    return f"{text(number.low)}–{text(number.high)}" if number and number.rounds > 1 else "–"


def share(value):
    if value is None:
        return "–"
    if value == 1:
        return "100 %"
    return f"{min(value, 0.99999) * 100:.3f} %" if value > 0.99 else f"{value * 100:.1f} %"


def span_of(microseconds):
    if microseconds < 1000:
        return f"{microseconds:.0f} µs"
    if microseconds < 1e6:
        return f"{digits(microseconds / 1000)} ms"
    return f"{digits(microseconds / 1e6)} s"


def span(number):
    return span_of(number.median) if number else "–"


def millis(number):
    return span_of(number.median * 1000) if number else "–"


def seconds(number):
    return f"{digits(number.median)} s" if number else "–"


def bytes_text(value):
    if value < 2048:
        return f"{value:,.0f} B"
    return f"{value / 1024:,.1f} KiB" if value < 2**20 else f"{value / 2**20:,.1f} MiB"


def size(number):
    return bytes_text(number.median) if number else "–"
