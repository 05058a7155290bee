"""Read WFDB records as wfdb-python does, in every format, and name what is wrong with damaged ones."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness_ecg.wfdb_format import Layout, RecordError, parse_header, read_header, read_signals

gains = st.one_of(st.floats(0.01, 1e5), st.sampled_from([1e-5, 1000.0, 204.7]))


def ours(path: Path) -> np.ndarray:
    return read_signals([read_header(path)])[0].T


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_reads_format_16_as_wfdb_reads_it(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    shape = (data.draw(st.integers(1, 30)), count)
    samples = data.draw(arrays(np.int64, shape, elements=st.integers(-(2**15), 2**15 - 1)))
    gain = data.draw(st.lists(gains, min_size=count, max_size=count))
    baseline = data.draw(st.lists(st.integers(-40000, 40000), min_size=count, max_size=count))
    with tempfile.TemporaryDirectory() as folder:
        names = [f"lead {i}" for i in range(count)]
        wfdb.wrsamp(
            "r", 250, ["uV"] * count, names, d_signal=samples, fmt=["16"] * count,
            adc_gain=gain, baseline=baseline, write_dir=folder,
        )  # fmt: skip
        expected, facts = wfdb.rdsamp(f"{folder}/r")
        header = read_header(f"{folder}/r")
        np.testing.assert_array_equal(ours(Path(folder) / "r"), expected)
    assert (header.rate, header.length) == (facts["fs"], facts["sig_len"])
    assert [signal.name for signal in header.signals] == facts["sig_name"]
    assert [signal.units for signal in header.signals] == facts["units"]


@pytest.mark.parametrize(
    "fields",
    [
        "16+6 1000(5)/mV 16 0",  # a byte offset
        "16 0 16 7",  # gain 0 means 200; without a baseline, adc_zero
        "16",  # all defaults
        "16x1 1.5e2/uV 16 -3",
        "16 250(-9)",
    ],
)
def test_optional_fields_mean_what_they_mean_to_wfdb(tmp_path: Path, fields: str) -> None:
    prefix = b"header" if "+6" in fields else b""
    samples = np.array([[1, -2], [300, -(2**15)], [5, 6]], "<i2")
    (tmp_path / "r.dat").write_bytes(prefix + samples.tobytes())
    lines = ["r 2 100 3", f"r.dat {fields}", f"r.dat {fields}", "# a comment"]
    (tmp_path / "r.hea").write_text("\n".join(lines))
    expected = wfdb.rdrecord(str(tmp_path / "r")).p_signal
    assert np.isnan(expected[1, 1])
    np.testing.assert_array_equal(ours(tmp_path / "r"), expected)


def test_signals_may_lie_in_several_files(tmp_path: Path) -> None:
    samples = np.arange(12, dtype="<i2").reshape(4, 3)
    (tmp_path / "a.dat").write_bytes(samples[:, [0, 2]].tobytes())
    (tmp_path / "b.dat").write_bytes(samples[:, [1]].tobytes())
    checks = [f"{column[0]} {column.sum()} 0" for column in samples.T]
    (tmp_path / "r.hea").write_text(
        f"r 3 100 4\na.dat 16 9 16 0 {checks[0]} I\na.dat 16 9 16 0 {checks[2]} III\nb.dat 16 9 16 0 {checks[1]} II\n"
    )
    np.testing.assert_array_equal(ours(tmp_path / "r"), wfdb.rdsamp(str(tmp_path / "r"))[0])


def test_a_negative_checksum_is_the_same_modulo_65536(tmp_path: Path) -> None:
    (tmp_path / "r.dat").write_bytes(np.array([-5, -6], "<i2").tobytes())
    (tmp_path / "r.hea").write_text("r 1 100 2\nr.dat 16 1 16 0 -5 -11 0 I\n")
    np.testing.assert_array_equal(ours(tmp_path / "r"), [[-5.0], [-6.0]])


HEADER = "r 2 100 3\nr.dat 16 1000/mV 16 0 1 306 0 I\nr.dat 16 1000/mV 16 0 2 12 0 II\n"
DATA = np.array([[1, 2], [300, 4], [5, 6]], "<i2").tobytes()


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (HEADER, None, r"r\.dat: missing"),
        (HEADER, DATA[:-1], r"r\.dat: truncated: 11 bytes, but its header declares 12"),
        (HEADER, DATA + b"\0\0", r"r\.dat: too long"),
        (HEADER, DATA[:-2] + b"\7\0", r"r\.dat: signal II has checksum 13, but its header says 12"),
        (HEADER.replace("1 306", "2 306"), DATA, "signal I has initial value 1, but its header says 2"),
        (HEADER.replace("dat 16 ", "dat 212 "), DATA, r"r\.dat: too long: 12 bytes, but its header declares 9"),
        (HEADER.replace("dat 16 ", "dat 16x2 "), DATA, r"r\.dat: truncated: 12 bytes, but its header declares 24"),
        (HEADER.replace("dat 16 ", "dat 17 "), DATA, "signal format '17'"),
        (HEADER.replace("1000/mV", "inf/mV"), DATA, "gain field 'inf/mV'"),
        (HEADER.replace("r.dat", "r\0dat"), DATA, "cannot be read .*null byte"),
        (HEADER.replace("100 3", "100 -3"), DATA, "not a WFDB header"),
        (HEADER.replace("r 2", "r 3"), DATA, "2 signal lines, but the first line declares 3"),
        (HEADER.replace("r 2", "r/4 2"), DATA, "2 segment lines, but the first line declares 4"),
        (HEADER.replace(" 306", " x"), DATA, "not a WFDB header"),
        ("", DATA, "not a WFDB header"),
        ("\xff\xfe", DATA, "not a WFDB header"),
        (None, DATA, r"r\.hea: missing"),
    ],
)
def test_damage_is_named(tmp_path: Path, header: str | None, data: bytes | None, reason: str) -> None:
    if header is not None:
        (tmp_path / "r.hea").write_bytes(header.encode("latin-1"))
    if data is not None:
        (tmp_path / "r.dat").write_bytes(data)
    with pytest.raises(RecordError, match=reason) as error:
        ours(tmp_path / "r")
    assert error.value.record == str(tmp_path / "r")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"rate": 500.0}, "sampled at 100 Hz, not 500 Hz"),
        ({"length": 1000}, "3 samples per signal, not 1000"),
        ({"names": ("I", "II", "III")}, "no lead III"),
        ({"names": ("II", "I")}, "another order or number: I II instead of II I"),
        ({"units": "uV"}, "signal I is in mV, not in uV"),
    ],
)
def test_layout(changes: dict, reason: str | None) -> None:
    layout = Layout(**({"rate": 100.0, "length": 3, "names": ("I", "II"), "units": "mV"} | changes))
    header = parse_header("r", HEADER.encode())
    if reason is None:
        layout.check(header)
    else:
        with pytest.raises(RecordError, match=reason):
            layout.check(header)


# ------------------------------------------------------------------------------------------------------- other formats

RNG = np.random.default_rng(4)
#: The smallest and largest sample of each format; the value below the smallest marks an invalid sample.
WRITTEN = {
    "16": (-(2**15) + 1, 2**15 - 1),
    "80": (-127, 127),
    "212": (-2047, 2047),
    "24": (-(2**23) + 1, 2**23 - 1),
    "32": (-(2**31) + 1, 2**31 - 1),
    "508": (-127, 127),
    "516": (-(2**15) + 1, 2**15 - 1),
    "524": (-(2**23) + 1, 2**23 - 1),
}


def draw(format_: str, length: int = 40, signals: int = 3) -> np.ndarray:
    low, high = WRITTEN[format_]
    samples = RNG.integers(low, high, (length, signals), endpoint=True)
    samples[:2] = [low] * signals, [high] * signals
    return samples


def write(folder: Path, name: str, samples: np.ndarray, formats: list[str], **changes: object) -> None:
    count = samples.shape[1]
    arguments: dict[str, object] = {
        "fs": 100,
        "units": ["mV"] * count,
        "sig_name": [f"S{i}" for i in range(count)],
        "adc_gain": [200.0 + i for i in range(count)],
        "baseline": [i - 1 for i in range(count)],
        "fmt": formats,
    }
    wfdb.wrsamp(name, d_signal=samples, write_dir=str(folder), **(arguments | changes))


def physical(samples: np.ndarray) -> np.ndarray:
    count = samples.shape[1]
    return (samples - (np.arange(count) - 1.0)) / (200.0 + np.arange(count))


@pytest.mark.parametrize("format_", WRITTEN)
@pytest.mark.parametrize("length", [40, 41])
def test_each_format_that_wfdb_writes(tmp_path: Path, format_: str, length: int) -> None:
    samples = draw(format_, length)
    write(tmp_path, "r", samples, [format_] * 3)
    np.testing.assert_array_equal(ours(tmp_path / "r"), physical(samples))
    np.testing.assert_array_equal(ours(tmp_path / "r"), wfdb.rdrecord(str(tmp_path / "r")).p_signal)


@pytest.mark.parametrize("format_", WRITTEN)
def test_an_invalid_sample_is_nan_in_each_format(tmp_path: Path, format_: str) -> None:
    samples = draw(format_)
    samples[7, 1] = WRITTEN[format_][0] - 1
    write(tmp_path, "r", samples, [format_] * 3)
    signals = ours(tmp_path / "r")
    assert np.argwhere(np.isnan(signals)).tolist() == [[7, 1]]
    samples[7, 1] = 0
    np.testing.assert_array_equal(signals[np.arange(40) != 7], physical(samples)[np.arange(40) != 7])


def pack_310(samples: np.ndarray) -> bytes:
    one, two, three = samples.reshape(-1, 3).T & 0x3FF
    words = np.stack([one << 1 | (three & 0x1F) << 11, two << 1 | (three >> 5) << 11], axis=1)
    return words.astype("<u2").tobytes()


def pack_311(samples: np.ndarray) -> bytes:
    one, two, three = samples.reshape(-1, 3).T & 0x3FF
    return (one | two << 10 | three << 20).astype("<u4").tobytes()


@pytest.mark.parametrize(
    ("format_", "low", "high", "pack"),
    [
        ("310", -511, 511, pack_310),
        ("311", -511, 511, pack_311),
        ("61", -(2**15) + 1, 2**15 - 1, lambda samples: samples.astype(">i2").tobytes()),
        ("160", -(2**15) + 1, 2**15 - 1, lambda samples: (samples + 2**15).astype("<u2").tobytes()),
        ("8", -60, 60, lambda samples: np.diff(samples, axis=0, prepend=samples[:1]).astype("i1").tobytes()),
    ],
)
@pytest.mark.parametrize("offset", [0, 6])
def test_each_format_that_wfdb_only_reads(
    tmp_path: Path, format_: str, low: int, high: int, pack: Callable[[np.ndarray], bytes], offset: int
) -> None:
    samples = RNG.integers(low, high, (12, 3), endpoint=True)
    (tmp_path / "r.dat").write_bytes(b"h" * offset + pack(samples))
    field = format_ + (f"+{offset}" if offset else "")
    lines = [
        f"r.dat {field} {200 + i}({i - 1})/mV 10 0 {samples[0, i]} {samples[:, i].sum() % 2**16} 0 S{i}"
        for i in range(3)
    ]
    (tmp_path / "r.hea").write_text("\n".join(["r 3 100 12", *lines, ""]))
    np.testing.assert_array_equal(ours(tmp_path / "r"), physical(samples))
    np.testing.assert_array_equal(ours(tmp_path / "r"), wfdb.rdrecord(str(tmp_path / "r")).p_signal)


def test_signal_files_of_several_formats(tmp_path: Path) -> None:
    parts = {"a": draw("212"), "b": draw("16"), "c": draw("24")}
    for (name, samples), format_ in zip(parts.items(), ("212", "16", "24"), strict=True):
        write(tmp_path, name, samples, [format_] * 3)
    lines = [line for name in parts for line in (tmp_path / f"{name}.hea").read_text().splitlines()[1:]]
    (tmp_path / "r.hea").write_text("\n".join(["r 9 100 40", *lines, ""]))
    np.testing.assert_array_equal(ours(tmp_path / "r"), np.hstack([physical(part) for part in parts.values()]))


def test_several_samples_per_frame_are_averaged_and_one_invalid_sample_makes_the_frame_invalid(tmp_path: Path) -> None:
    samples = np.array([[1, 10, 20], [2, 30, 50], [3, -(2**15), 60]], "<i2")  # one sample of I, two of II
    (tmp_path / "r.dat").write_bytes(samples.tobytes())
    check = int(samples[:, 1:].sum()) % 2**16
    (tmp_path / "r.hea").write_text(f"r 2 100 3\nr.dat 16 10/mV 16 0 1 6 0 I\nr.dat 16x2 10/mV 16 0 10 {check} 0 II\n")
    np.testing.assert_array_equal(ours(tmp_path / "r"), [[0.1, 1.5], [0.2, 4.0], [0.3, np.nan]])


def test_skew_is_that_of_wfdb(tmp_path: Path) -> None:
    samples = np.arange(1, 9, dtype="<i2").reshape(4, 2)
    (tmp_path / "r.dat").write_bytes(samples.tobytes())
    (tmp_path / "r.hea").write_text("r 2 100 4\nr.dat 16 1/mV 16 0 1 16 0 I\nr.dat 16:1 1/mV 16 0 2 20 0 II\n")
    np.testing.assert_array_equal(ours(tmp_path / "r"), [[1, 4], [3, 6], [5, 8], [7, np.nan]])


@pytest.mark.parametrize("format_", [name for name in WRITTEN if name != "16"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-4], r"r: wfdb cannot|r\.dat: (truncated|signal S\d has (initial value|checksum))"),
        ("flip", r"r\.dat: signal S2 has checksum|r: wfdb cannot read"),
        (lambda data: b"", r"r: wfdb cannot read|r\.dat: (truncated|cannot be read)"),
        (None, r"r\.dat: missing"),
    ],
)
def test_damaged_samples_are_named_in_each_format(
    tmp_path: Path, format_: str, damage: Callable[[bytes], bytes] | str | None, reason: str
) -> None:
    write(tmp_path, "r", draw(format_), [format_] * 3)
    path = tmp_path / "r.dat"
    content = path.read_bytes()
    path.unlink()
    if damage == "flip":  # a bit of the last sample, in its lower 16 bits
        place = len(content) - {"24": 3, "32": 4}.get(format_, 1)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif callable(damage):
        path.write_bytes(damage(content))
    with pytest.raises(RecordError, match=reason) as error:
        ours(tmp_path / "r")
    assert error.value.record == str(tmp_path / "r")


# ------------------------------------------------------------------------------------------------------------ segments


def write_segments(folder: Path, variable: bool) -> np.ndarray:
    """Three segments in formats 16, 212 and 24; of a variable layout the second is a gap and the last lacks S1."""
    parts = [draw("16", 10), draw("212", 15), draw("24", 20)]
    write(folder, "a", parts[0], ["16"] * 3)
    write(folder, "b", parts[1], ["212"] * 3)
    expected = [physical(part) for part in parts]
    lines = ["r/3 3 100 45", "a 10", "b 15", "c 20"]
    if variable:
        layout = [f"~ 0 {200 + i}({i - 1})/mV 16 0 0 0 0 S{i}" for i in range(3)]
        (folder / "layout.hea").write_text("\n".join(["layout 3 100 0", *layout, ""]))
        lines = ["r/4 3 100 45", "layout 0", "a 10", "~ 15", "c 20"]
        part, columns = parts[2][:, [0, 2]], {"sig_name": ["S0", "S2"], "adc_gain": [200.0, 202.0], "baseline": [-1, 1]}
        write(folder, "c", part, ["24"] * 2, units=["mV"] * 2, **columns)
        expected[1][:], expected[2][:, 1] = np.nan, np.nan
    else:
        write(folder, "c", parts[2], ["24"] * 3)
    (folder / "r.hea").write_text("\n".join([*lines, ""]))
    return np.vstack(expected)


@pytest.mark.parametrize("variable", [False, True])
def test_segments(tmp_path: Path, variable: bool) -> None:
    expected = write_segments(tmp_path, variable)
    np.testing.assert_array_equal(ours(tmp_path / "r"), expected)
    np.testing.assert_array_equal(wfdb.rdrecord(str(tmp_path / "r")).p_signal, expected)
    header = read_header(tmp_path / "r")
    Layout(100, 45, ("S0", "S1", "S2"), "mV").check(header)


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "b.hea").unlink(), r"r\.hea: a segment cannot be read: .*b\.hea: missing"),
        (lambda folder: (folder / "b.dat").unlink(), r"b\.dat: missing"),
        (lambda folder: (folder / "b.dat").write_bytes(b"x"), r"b\.dat: truncated"),
        (lambda folder: (folder / "a.dat").write_bytes(b"\0" * 60), r"a\.dat: signal S0 has initial value 0, but"),
        (edit("r.hea", "b 15", "b 16"), r"segments of 46 samples, but the first line declares 45"),
        (edit("r.hea", "b 15\nc 20", "b 20\nc 15"), r"segment b: 15 samples at 100 Hz, not 20 at 100 Hz"),
        (edit("r.hea", "3 100 45", "3 500 45"), r"segment a: 10 samples at 100 Hz, not 10 at 500 Hz"),
        (edit("r.hea", "3 100 45", "2 100 45"), r"the first segment, a, does not have the 2 signals"),
        (edit("r.hea", "b 15", "b"), "not a WFDB header"),
        (edit("r.hea", "b 15", "~ 15"), r"segment cannot be read: .*~\.hea: missing"),
        (edit("r.hea", "b 15", "r 15"), r"a segment cannot be read: .*a segment that has segments itself"),
        (edit("b.hea", "S0", "T0"), r"segment b: its signals are T0 S1 S2, not S0 S1 S2"),
        (edit("b.hea", "mV", "uV"), r"segment b: its units differ"),
    ],
)
def test_damaged_segments_are_named(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    write_segments(tmp_path, variable=False)
    spoil(tmp_path)
    with pytest.raises(RecordError, match=reason) as error:
        ours(tmp_path / "r")
    assert error.value.record == str(tmp_path / "r")


def test_a_segment_needs_checksums_too(tmp_path: Path) -> None:
    write_segments(tmp_path, variable=False)
    path = tmp_path / "b.hea"
    path.write_text(
        "\n".join(" ".join(line.split()[:4]) if "b.dat" in line else line for line in path.read_text().split("\n"))
    )
    with pytest.raises(RecordError, match="b"):
        Layout(100, 45, ("S0", "S1", "S2"), "mV").check(read_header(tmp_path / "r"))


# ------------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    "comment", [b"# Universit\xe4t", b"  # blanks first", b"\t#\x85next", "# Universität".encode()]
)
def test_comments_in_any_encoding_and_after_blanks(tmp_path: Path, comment: bytes) -> None:
    (tmp_path / "r.dat").write_bytes(DATA)
    (tmp_path / "r.hea").write_bytes(comment + b"\n" + HEADER.encode() + comment + b"\n")
    np.testing.assert_array_equal(ours(tmp_path / "r"), np.array([[1, 2], [300, 4], [5, 6]]) / 1000)


def test_a_path_with_nul_is_named() -> None:
    with pytest.raises(RecordError, match=r"a.*b\.hea.*: cannot be read .*null byte"):
        read_header("a\0b")


def test_importing_the_plugin_imports_no_wfdb() -> None:
    code = "import sys, harness_ecg, harness_ecg.recordings; sys.exit('wfdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
