"""What is read of a processor's description, whichever the machine."""

import pytest

from hut_jax.core import processor

AMX = "processor : 0\nmodel name : A Xeon\nflags : fpu avx2 amx_bf16 amx_tile\ncpu MHz : {speed}\n"
NONE = "processor : 0\nmodel name : An EPYC\nflags : fpu avx2 avx512_bf16\nbugs : amx_bf16\ncpu MHz : {speed}\n"
ARM = "processor : 0\nFeatures : fp asimd bf16\n"
has_matrix_units = processor.has_matrix_units.__wrapped__  # as other tests found it, and without its memory


@pytest.fixture
def describe(monkeypatch, tmp_path):
    """Let a processor have this description, or none."""

    def describe(text):
        monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
        if text is not None:
            processor.CPUINFO.write_text(text)

    return describe


@pytest.mark.parametrize(("text", "has"), [(AMX, True), (NONE, False), (ARM, False), (None, False)])
def test_matrix_units_are_those_that_xla_uses_for_bf16(describe, text, has):
    describe(text)
    assert has_matrix_units() is has


def test_processors_differ_by_model_and_features_alone(describe):
    def of(text):
        describe(text)
        return processor.fingerprint()

    assert of(AMX.format(speed=2000)) == of(AMX.format(speed=3000))
    assert len({of(AMX), of(AMX.replace("amx_bf16", "")), of(NONE), of(ARM), of("")}) == 5


def test_a_system_that_tells_nothing_has_a_name_too(describe):
    describe(None)
    assert processor.fingerprint() == "any"
