"""Sets two accounts of the same steps side by side."""


def differences(theirs, ours):
    """What is not the same, as lines: none if all is."""
    lines = []
    for key in ("left", "said"):
        if theirs[key] != ours[key]:
            lines += [f"{key}:", *_both(theirs[key], ours[key])]
    for number in range(max(len(theirs["segments"]), len(ours["segments"]))):
        one, other = (segments[number] if number < len(segments) else {} for segments in _segments(theirs, ours))
        for channel in sorted(one.keys() | other.keys()):
            if one.get(channel) != other.get(channel):
                lines += [f"segment {number}, channel {channel}:"]
                lines += _both(one.get(channel, []), other.get(channel, []))
    return lines


def _segments(theirs, ours):
    return theirs["segments"], ours["segments"]


def _both(theirs, ours):
    """The first place where two lists of events part, with what leads up to it."""
    at = 0
    while at < min(len(theirs), len(ours)) and theirs[at] == ours[at]:
        at += 1
    lines = [f"    {_short(event)}" for event in theirs[max(0, at - 3) : at]]
    lines += [f"  - {_short(event)}" for event in theirs[at : at + 4]]
    lines += [f"  + {_short(event)}" for event in ours[at : at + 4]]
    return lines


def _short(event):
    text = repr(event)
    return text if len(text) < 200 else f"{text[:150]}...({len(text)})"
