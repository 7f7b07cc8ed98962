"""The plots: CPU per delivery, latency, delivered against offered, memory."""

import math

import words
from svg import Drawing

WIDTH = 760
ORDER = ["fanfare", "floor", "nchan", "durable", "pushpin", "mercure"]


def draw_all(results, names, folder):
    """Draws what there are numbers for; returns (file, caption) of each."""
    drawn = []
    for name, caption, draw in (
        ("cpu.svg", "CPU of the server per delivery, by scenario and system", cpu),
        ("offered.svg", "Deliveries per second against those that were asked for, on one hot channel", offered),
        ("latency.svg", "Latency from intended send to receipt, median and 99th percentile", latency),
        ("memory.svg", "Memory of the server per idle subscriber", memory),
    ):
        if draw(results, names, folder / name, caption):
            drawn.append((name, caption))
    return drawn


def fanout(results):
    return [scenario for scenario in results.scenarios() if scenario.table == "fanout"]


def members(results, scenario, measure):
    """The systems that have a number, in their order."""
    found = []
    for key in ORDER:
        cell = results.cell(scenario.key, key)
        number = measure(cell) if cell else None
        if number and number.median:
            found.append((key, cell, number))
    return found


def headline(drawing, caption, explanation):
    drawing.text(24, 30, caption, "title")
    drawing.text(24, 48, explanation, "soft")


def cpu(results, names, path, caption):
    """One panel for each scenario, each with its own scale: they differ a hundredfold."""
    drawing = Drawing(WIDTH, caption, "Horizontal bars; shorter is better; whiskers span the rounds.")
    headline(drawing, caption, "µs, shorter is better; whiskers: least and greatest round; * = did not deliver everything")
    y = bars(drawing, 72, [(scenario, members(results, scenario, lambda cell: cell.cpu)) for scenario in fanout(results)],
             names, lambda value: f"{words.digits(value)} µs")
    if y:
        drawing.save(path, y)
    return bool(y)


def memory(results, names, path, caption):
    scenarios = [scenario for scenario in results.scenarios() if scenario.table == "idle"]
    drawing = Drawing(WIDTH, caption, "Horizontal bars; shorter is better.")
    headline(drawing, caption, "growth of the processes (PSS), shorter is better; sockets in the kernel cost all the same")
    y = bars(drawing, 72, [(scenario, members(results, scenario, lambda cell: cell.memory_per_subscriber))
                           for scenario in scenarios], names, words.bytes_text)
    if y:
        drawing.save(path, y)
    return bool(y)


def bars(drawing, y, panels, names, text):
    """Draws panels of bars from y on; returns where they end, or None when there is nothing."""
    left, right = 150, WIDTH - 130
    drawn = False
    for scenario, found in panels:
        if not found:
            continue
        drawn = True
        drawing.text(24, y + 4, scenario.title, "head")
        y += 14
        longest = max(number.high for _, _, number in found)
        scale = (right - left) / longest
        for key, cell, number in found:
            width = max(1.5, number.median * scale)
            drawing.text(left - 10, y + 12, names[key], f"end{' strong' if key == 'fanfare' else ''}")
            drawing.add("rect", x=left, y=float(y), width=width, height=16, rx=2, class_=f"bar {key}")
            end = left + width
            if number.rounds > 1:
                low, high = left + number.low * scale, left + number.high * scale
                drawing.line(low, y + 8, high, y + 8, "whisker")
                drawing.line(low, y + 4, low, y + 12, "whisker")
                drawing.line(high, y + 4, high, y + 12, "whisker")
                end = max(end, high)
            drawing.text(end + 8, y + 12, text(number.median) + ("" if cell.complete else " *"))
            y += 20
        y += 22
    return y if drawn else None


def offered(results, names, path, caption):
    """One line for each system: where it leaves the diagonal, it no longer keeps up."""
    hot = [scenario for scenario in fanout(results) if scenario.key.startswith("hot-")]
    lines = {}
    for scenario in hot:
        for key, _, number in members(results, scenario, lambda cell: cell.number("deliveries_per_second")):
            lines.setdefault(key, []).append((scenario.rate * scenario.sockets, number.median))
    lines = {key: points for key, points in lines.items() if len(points) > 1}
    if not lines:
        return False
    drawing = Drawing(WIDTH, caption, "Lines on logarithmic axes; on the diagonal a system keeps up.")
    headline(drawing, caption, "1000 subscribers; on the dotted line a system keeps up with what is published")
    left, right, top, bottom = 90, WIDTH - 180, 92, 402
    everything = [value for points in lines.values() for point in points for value in point]
    low, high = math.log10(min(everything) * 0.8), math.log10(max(everything) * 1.25)

    def x_of(value):
        return left + (math.log10(value) - low) / (high - low) * (right - left)

    def y_of(value):
        return bottom - (math.log10(value) - low) / (high - low) * (bottom - top)

    for tick in ticks(10**low, 10**high):
        drawing.line(left, y_of(tick), right, y_of(tick), "grid")
        drawing.line(x_of(tick), top, x_of(tick), bottom, "grid")
        drawing.text(left - 8, y_of(tick) + 4, short(tick), "end soft")
        drawing.text(x_of(tick), bottom + 18, short(tick), "mid soft")
    drawing.add("line", x1=x_of(10**low), y1=y_of(10**low), x2=x_of(10**high), y2=y_of(10**high),
                class_="whisker", stroke_dasharray="2 4")
    drawing.text((left + right) / 2, bottom + 38, "deliveries/s asked for", "mid soft")
    drawing.text(24, top - 8, "delivered/s", "soft")
    labels = []
    for key, points in sorted(lines.items(), key=lambda item: ORDER.index(item[0]), reverse=True):
        path_text = " ".join(f"{'L' if at else 'M'}{x_of(a):.1f} {y_of(b):.1f}" for at, (a, b) in enumerate(points))
        drawing.add("path", d=path_text, class_=f"line {key}")
        for a, b in points:
            drawing.add("circle", cx=x_of(a), cy=y_of(b), r=3.5, class_=f"dot {key}")
        labels.append((y_of(points[-1][1]), key, points[-1][1]))
    for y, key, value in apart(sorted(labels), 16):
        drawing.add("circle", cx=right + 14, cy=y, r=4, class_=f"dot {key}")
        drawing.text(right + 24, y + 4, f"{names[key]} {short(value)}", "strong" if key == "fanfare" else None)
    drawing.save(path, bottom + 56)
    return True


def latency(results, names, path, caption):
    """A dumbbell for each system: median and 99th percentile, on one logarithmic axis for all."""
    panels = []
    for scenario in fanout(results) + [light for light in results.scenarios() if light.table == "light"]:
        found = [(key, middle, cell.number("latency_us", "p99"))
                 for key, cell, middle in members(results, scenario, lambda cell: cell.number("latency_us", "p50"))]
        found = [(key, middle.median, high.median) for key, middle, high in found if high]
        if found:
            panels.append((scenario, found))
    if not panels:
        return False
    drawing = Drawing(WIDTH, caption, "Dumbbells on a logarithmic axis; further left is better.")
    headline(drawing, caption, "ring: median, dot: 99th percentile; logarithmic, further left is better")
    left, right = 150, WIDTH - 150
    values = [value for _, found in panels for _, *pair in found for value in pair]
    low, high = math.log10(min(values) * 0.8), math.log10(max(values) * 1.2)

    def x_of(value):
        return left + (math.log10(value) - low) / (high - low) * (right - left)

    top, y = 80, 80
    rows = []
    for scenario, found in panels:
        rows.append((y, scenario, found))
        y += 14 + 20 * len(found) + 22
    for tick in ticks(10**low, 10**high):
        drawing.line(x_of(tick), top - 6, x_of(tick), y - 14, "grid")
        drawing.text(x_of(tick), top - 12, words.span_of(tick).replace(".00", "").replace(".0", ""), "mid soft")
    for y_panel, scenario, found in rows:
        drawing.text(24, y_panel + 6, scenario.title, "head")
        for at, (key, middle, tail) in enumerate(found):
            line = y_panel + 24 + 20 * at
            drawing.text(left - 10, line + 4, names[key], f"end{' strong' if key == 'fanfare' else ''}")
            drawing.line(x_of(middle), line, x_of(tail), line, f"line {key}")
            drawing.add("circle", cx=x_of(middle), cy=line, r=4, class_=f"ring {key}")
            drawing.add("circle", cx=x_of(tail), cy=line, r=4, class_=f"dot {key}")
            drawing.text(right + 14, line + 4, f"{words.span_of(middle)} · {words.span_of(tail)}", "soft")
    drawing.save(path, y)
    return True


def ticks(low, high):
    return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def short(value):
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value / 1e3:.3g} k" if value >= 1e3 else f"{value:.3g}"


def apart(labels, distance):
    """Labels, in their order, moved down until they no longer cover each other."""
    found, last = [], -math.inf
    for y, key, value in labels:
        last = max(y, last + distance)
        found.append((last, key, value))
    return found
