"""The spoken form of a text, for those who cannot see its picture: espeak-ng, noise, MP3.

Digits are spoken in the language of the page. Letters are those of the Latin alphabet, each with a word that begins
with it; where there are no words in a language, they are spoken in English.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import io
import itertools
import json
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from string import ascii_uppercase, digits
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len

VOICES = {"en": ("en", "en-us", "en-gb-x-rp"), "de": ("de",), "fa": ("fa",)}
VARIANTS = ("m1", "m2", "m3", "m4", "m7", "f1", "f2", "f3", "f4")
SYNCHRONOUS, STAYS, UTF_8 = 2, 0x8000, 1  # sound is returned; a library that fails does not end the process
SPEED, PITCH, RANGE = 1, 3, 4  # parameters of espeak-ng
QUALITY = 0.9  # 24 kilobits a second at 22,050 Hz
Sound = NDArray[np.float64]
Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speechless(Exception):
    """Nothing can be spoken, with the reason."""


class Espeak:
    """The library espeak-ng: that of the package espeakng-loader, or the system's. Its state is that of the process.

    Attributes:
        rate: samples a second.

    Raises:
        Speechless: if it is not there, or cannot be used.
    """

    def __init__(self) -> None:
        path, data = _library()
        try:
            self._library = ctypes.CDLL(path)
            self.rate: int = self._library.espeak_Initialize(SYNCHRONOUS, 0, data, STAYS)
        except (OSError, AttributeError) as error:
            raise Speechless(f"espeak-ng cannot be loaded ({error})") from error
        if self.rate <= 0:
            raise Speechless("espeak-ng has not found its data")
        self._spoken: list[Sound] = []
        self._callback = Callback(self._keep)  # kept here, since the library refers to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _keep(self, samples: Any, count: int, _: Any) -> int:
        if count > 0:
            self._spoken.append(np.ctypeslib.as_array(samples, (count,)) / 2.0**15)
        return 0

    def choose(self, voice: str) -> None:
        """Use a voice. Raises Speechless if there is none of this name."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise Speechless(f"espeak-ng has no voice {voice}")

    def say(self, words: str, voice: str, speed: int, pitch: int, range_: int) -> Sound:
        """Words as samples from -1 to 1.

        Args:
            words: the words.
            voice: a voice of espeak-ng, such as en-gb+f2.
            speed: words a minute.
            pitch, range_: 0 to 100.
        """
        self.choose(voice)
        for name, value in ((SPEED, speed), (PITCH, pitch), (RANGE, range_)):
            self._library.espeak_SetParameter(name, value, 0)
        self._spoken = []
        text = words.encode() + b"\0"
        self._library.espeak_Synth(text, len(text), 0, 0, 0, UTF_8, None, None)
        return np.concatenate([np.zeros(0), *self._spoken])


def _library() -> tuple[str, bytes | None]:
    """The library, and where its data are if not in their usual place."""
    try:
        import espeakng_loader
    except ImportError:
        path = ctypes.util.find_library("espeak-ng")
        if path is None:
            raise Speechless("espeak-ng is not installed: install jensen with the extra audio") from None
        return path, None
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path().encode()


class Speaker:
    """Speaks texts of an alphabet in some languages.

    Raises:
        Speechless: if there is no espeak-ng, nothing that writes MP3, or a character that has no name here.
    """

    def __init__(self, languages: Sequence[str], alphabet: str):
        if strange := set(alphabet.upper()) - {*digits, *ascii_uppercase}:
            raise Speechless(f"there are no words for {min(strange)!r}")
        self._soundfile, self._espeak, self._languages = _soundfile(), Espeak(), languages
        for voice in itertools.chain.from_iterable(VOICES[language] for language in {*languages, "en"}):
            self._espeak.choose(voice)
        self._words = json.loads(resources.files(__package__).joinpath("spelling.json").read_text(encoding="utf-8"))

    def clips(self, text: str) -> dict[str, bytes]:
        """Recordings of a text by language; others each time."""
        sounds = [self.spoken(text, language) for language in self._languages]
        with ThreadPoolExecutor(len(sounds)) as threads:  # the encoder holds no lock
            return dict(zip(self._languages, threads.map(self._encoded, sounds), strict=True))

    def spoken(self, text: str, language: str) -> Sound:
        """The samples of a recording: the text amid noise and words that run backwards."""
        rng = np.random.default_rng(secrets.randbits(256))
        voice = self._voice(text, language, rng)
        murmur = self._voice("".join(rng.choice([*digits], len(text))), language, rng)[::-1]
        loudness = np.sqrt(np.mean(voice[voice != 0] ** 2))
        for other, decibels in ((_noise(len(voice), rng), (-20, -14)), (murmur, (-22, -16))):
            other = np.resize(other, len(voice))
            voice = voice + other * loudness / np.sqrt(np.mean(other**2)) * 10 ** (rng.uniform(*decibels) / 20)
        return voice / np.abs(voice).max() * rng.uniform(0.6, 0.9)

    def _voice(self, text: str, language: str, rng: np.random.Generator) -> Sound:
        """A text in a voice; each character at a speed and a pitch of its own, after a pause."""
        variant, speed, pitch = rng.choice(VARIANTS), rng.integers(125, 160), rng.integers(35, 65)
        accent = {name: rng.choice(voices) for name, voices in VOICES.items()}
        pieces = []
        for words, pause in self._spelled(text, language, rng):
            spoken = language if words in digits else self._lettered(language)
            manner = speed + rng.integers(-12, 13), pitch + rng.integers(-8, 9), rng.integers(30, 70)
            sound = self._espeak.say(words, f"{accent[spoken]}+{variant}", *map(int, manner))
            pieces += [np.zeros(int(pause * self._espeak.rate)), _stretched(sound, rng.uniform(0.95, 1.05))]
        return np.concatenate([*pieces, np.zeros(int(rng.uniform(0.4, 0.8) * self._espeak.rate))])

    def _lettered(self, language: str) -> str:
        return language if language in self._words else "en"

    def _spelled(self, text: str, language: str, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
        """What is said of each character, and the pause in seconds before it."""
        words = self._words[self._lettered(language)]
        for character in text.upper():
            yield character, rng.uniform(0.4, 0.9)
            if character not in digits:
                yield f"{rng.choice(words['phrases'])} {rng.choice(words[character])}", rng.uniform(0.05, 0.15)

    def _encoded(self, sound: Sound) -> bytes:
        """MP3, which every browser plays, without tags."""
        file = io.BytesIO()
        options = {"bitrate_mode": "CONSTANT", "compression_level": QUALITY}
        self._soundfile.write(file, sound, self._espeak.rate, "MPEG_LAYER_III", format="MP3", **options)
        return file.getvalue()


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise Speechless("soundfile is not installed: install jensen with the extra audio") from error
    if "MP3" not in soundfile.available_formats():
        raise Speechless("the library libsndfile cannot write MP3: it must be at least 1.1")
    return soundfile


def _stretched(sound: Sound, factor: float) -> Sound:
    """A sound made longer and deeper."""
    return np.interp(np.arange(0, len(sound), 1 / factor), np.arange(len(sound)), sound) if len(sound) else sound


def _noise(count: int, rng: np.random.Generator) -> Sound:
    """Noise whose power falls with a random power of the frequency."""
    size = next_fast_len(count, real=True)
    spectrum = np.fft.rfft(rng.normal(size=size))
    return np.fft.irfft(spectrum * np.arange(1, len(spectrum) + 1) ** -rng.uniform(0, 0.6), size)
