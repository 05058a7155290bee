"""Our reader of WFDB records against wfdb-python, and what it says of damaged ones."""

from __future__ import annotations

import tempfile
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
def test_reads_what_wfdb_writes_as_wfdb_reads_it(data: st.DataObject) -> None:
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
        (HEADER, DATA[:-1], r"r\.dat: truncated: 11 bytes where its header promises 12"),
        (HEADER, DATA + b"\0\0", r"r\.dat: too long"),
        (HEADER, DATA[:-2] + b"\7\0", r"r\.dat: signal II has checksum 13, but its header says 12"),
        (HEADER.replace("1 306", "2 306"), DATA, "signal I has initial value 1, but its header says 2"),
        (HEADER.replace("dat 16 ", "dat 212 "), DATA, "format 212; only 16"),
        (HEADER.replace("dat 16 ", "dat 16x2 "), DATA, "format 16x2; only 16"),
        (HEADER.replace("r 2", "r 3"), DATA, "2 signal lines where the first line promises 3"),
        (HEADER.replace("r 2", "r/4 2"), DATA, "several segments"),
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
        ({"length": 1000}, "3 samples a signal, not 1000"),
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
