"""The spoken form of a text: its words, its sound, how much two draws have in common, and where it is missing."""

from __future__ import annotations

import io
import itertools
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from captcha_service import Classical, settings
from jensen.apps.captcha import speech
from jensen.apps.captcha.clips import unpacked
from jensen.apps.captcha.pool import Pool, speaker
from jensen.apps.captcha.speech import Speaker, Speechless
from jensen.apps.captcha.store import open_store

TEXT = "K7MPXQ"
LANGUAGES = ("en", "de", "fa")
MOST = 0.5  # correlation of two recordings of one text; 435 pairs of "7038" had at most 0.19


@pytest.fixture(scope="module")
def found():
    """A speaker of all languages."""
    return Speaker(LANGUAGES, TEXT + "0123456789")


def decoded(clip):
    samples, rate = soundfile.read(io.BytesIO(clip))
    assert rate == 22_050
    return samples


def alike(a, b):
    """The largest correlation of two waveforms, over all lags."""
    size = 1 << (len(a) + len(b)).bit_length()
    product = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    return np.abs(product).max() / np.linalg.norm(a) / np.linalg.norm(b)


def outline(sound):
    """The loudness of 24 bands in each of 8 parts of a sound, from its beginning to its end."""
    heard = sound[slice(*np.flatnonzero(np.abs(sound) > 0.01)[[0, -1]])]
    parts = [np.abs(np.fft.rfft(part, 1024))[: 24 * 15] for part in np.array_split(heard, 8)]
    return np.log(1e-3 + np.stack(parts).reshape(8, 24, 15).mean(2))


def said(found, monkeypatch, text, language):
    """The words, the voices and the sounds of a recording."""
    calls, say = [], found._espeak.say

    def heard(words, voice, *manner):
        calls.append((words, voice, say(words, voice, *manner)))
        return calls[-1][-1]

    monkeypatch.setattr(found._espeak, "say", heard)
    found._voice(text, language, np.random.default_rng(0))
    return calls


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_character_is_said_in_its_order(found, monkeypatch, language):
    calls = said(found, monkeypatch, "K0m", language)
    (k, like_k, nought, m, like_m) = (words for words, _, _ in calls)
    assert (k, nought, m) == ("K", "0", "M")
    assert like_k.split()[-1].upper().startswith("K")
    assert like_m.split()[-1].upper().startswith("M")
    letters = "de" if language == "de" else "en"
    assert [voice[:2] for _, voice, _ in calls] == [letters, letters, language, letters, letters]
    for _, _, sound in calls:
        assert 0.1 < len(sound) / 22_050 < 3
        assert np.abs(sound).max() > 0.05


@pytest.mark.parametrize("language", LANGUAGES)
def test_digits_can_be_told_apart(found, language):
    """Spoken again in the same manner, each is most like itself."""
    voice = speech.VOICES[language][0]
    first, second = ([outline(found._espeak.say(d, voice, 140, 50, 50)) for d in speech.digits] for _ in range(2))
    assert [int(np.argmin([np.linalg.norm(a - b) for b in first])) for a in second] == list(range(10))


def test_every_letter_has_words_that_begin_with_it():
    spelling = json.loads((Path(speech.__file__).parent / "spelling.json").read_text(encoding="utf-8"))
    assert set(spelling) == {"en", "de"}
    for words in spelling.values():
        assert set(words) == {"phrases", *speech.ascii_uppercase}
        for letter in speech.ascii_uppercase:
            assert len(words[letter]) >= 2
            assert all(word.upper().startswith(letter) for word in words[letter])


def test_two_draws_of_one_text_share_no_fingerprint(found):
    clips = [found.clips("7038")["en"] for _ in range(8)]
    assert len(set(clips)) == 8
    sounds = list(map(decoded, clips))
    assert max(alike(a, b) for a, b in itertools.combinations(sounds, 2)) < MOST
    assert alike(sounds[0], sounds[0][5000:]) > 0.95  # the measure sees a shift of the same recording


def test_a_recording_is_mp3_without_tags_and_its_text_is_not_in_it(found):
    for clip in found.clips(TEXT).values():
        assert clip[:2] == b"\xff\xf3"  # a frame of MPEG-2, layer III
        assert not any(word in clip for word in (b"ID3", b"TAG", TEXT.encode(), TEXT.lower().encode()))
        sound = decoded(clip)
        assert 5 < len(sound) / 22_050 < 30
        assert len(clip) / (len(sound) / 22_050) == pytest.approx(3000, rel=0.05)  # 24 kilobits a second
        assert 0.3 < np.abs(sound).max() <= 1


def test_the_voice_is_louder_than_what_is_mixed_in(found, monkeypatch):
    """By 6 dB at least: the sound before the first character beside all of it, in eight recordings."""
    seeds = itertools.count()
    monkeypatch.setattr(speech.secrets, "randbits", lambda bits: next(seeds))
    for _ in range(8):
        sound = found.spoken("70383", "en")
        silence = sound[: int(0.35 * 22_050)]  # before the first character
        assert np.sqrt(np.mean(silence**2)) < 0.5 * np.sqrt(np.mean(sound**2))
        assert np.sqrt(np.mean(silence**2)) > 0.01 * np.sqrt(np.mean(sound**2))


def test_the_pool_keeps_recordings_and_counts_their_bytes(tmp_path):
    chosen = settings(tmp_path, speech=["de", "en"])
    store = open_store(chosen.store)
    pool = Pool(Classical(), store, chosen, speaker(chosen, "0123456789"))
    assert pool.add(4) > 0
    size, pictures = store.waiting()[1], list(iter(lambda: store.take(0, 9), None))
    store.close()
    assert size == sum(len(picture.data) + len(picture.audio) for picture in pictures)
    for picture in pictures:
        clips = unpacked(picture.audio)
        assert list(clips) == ["de", "en"]
        assert all(2 < len(decoded(clip)) / 22_050 < 15 for clip in clips.values())


def missing(monkeypatch, *names):
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(speech.ctypes.util, "find_library", lambda _: None)


@pytest.mark.parametrize(
    ("absent", "alphabet", "reason"),
    [
        (["espeakng_loader"], "01", "espeak-ng is not installed: install jensen with the extra audio"),
        (["soundfile"], "01", "soundfile is not installed: install jensen with the extra audio"),
        ([], "01!", "there are no words for '!'"),
    ],
)
def test_without_speech_the_log_says_why_once(tmp_path, monkeypatch, caplog, absent, alphabet, reason):
    missing(monkeypatch, *absent)
    with caplog.at_level(logging.INFO, "jensen.captcha"):
        assert speaker(settings(tmp_path), alphabet) is None
        assert speaker(settings(tmp_path, speech=[]), alphabet) is None  # as it is set: nothing to say
    (record,) = caplog.records
    assert record.getMessage() == "challenges have no audio"
    assert record.fields == {"because": reason}


def test_a_library_that_is_not_espeak_is_refused(monkeypatch):
    monkeypatch.setattr(speech, "_library", lambda: (None, None))  # the program itself, which is no espeak-ng
    with pytest.raises(Speechless, match="espeak-ng cannot be loaded"):
        Speaker(["en"], "01")
    monkeypatch.undo()
    espeak = speech.Espeak()
    with pytest.raises(Speechless, match="no voice nobody"):
        espeak.choose("nobody")


def test_speech_imports_no_torch():
    code = "import sys, jensen.apps.captcha.speech; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
