"""Runs inside the emulated Pi, by itself: `python3 guest.py TASK FILE`; prints one line of JSON.

The tasks that count mark places in what they do with os.getppid(), at which insn_count.c prints how many instructions
were executed; what they print names what lies before each mark.
"""

from __future__ import annotations

import json
import os
import sys

RUNS = 20
"""Inferences that are counted together."""
BATCH = 10
"""Digits of a frame."""
FRAMES = 40
"""That a demo reads before its memory is looked at."""


def inference(model: str) -> list[list[object]]:
    """One thread: the runtime alone; with the copies that Python makes; a batch; each as [what, inferences]."""
    import numpy as np

    interpreter = _interpreter(model)
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    images = np.random.default_rng(0).integers(-128, 128, (BATCH, 28, 28, 1)).astype(np.int8)
    one = images[:1]
    for _ in range(3):
        interpreter.set_tensor(source, one)
        interpreter.invoke()
    os.getppid()
    for _ in range(RUNS):
        interpreter.invoke()
    os.getppid()
    for _ in range(RUNS):
        interpreter.set_tensor(source, one)
        interpreter.invoke()
        interpreter.get_tensor(target)
    os.getppid()
    interpreter.resize_tensor_input(source, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source, images)
    interpreter.invoke()
    os.getppid()
    for _ in range(RUNS):
        interpreter.invoke()
    os.getppid()
    return [["start", 0], ["one", RUNS], ["with copies", RUNS], ["resized", 0], ["in a batch", RUNS * BATCH]]


def reading(frame: str) -> dict[str, object]:
    """A frame, uint8 (H, W, 3) in an .npy file, read once the caches are warm: what stands there; the stages."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    from edge_mnist.demo.reading import reader

    reads, image = reader.Reader(), np.load(frame)
    for _ in range(2):
        reads.read(image)
    names = ["start"]
    tick = reader._Clock.tick

    def marked(clock: object, stage: str) -> None:
        tick(clock, stage)
        names.append(stage)
        os.getppid()

    reader._Clock.tick = marked
    os.getppid()
    found = reads.read(image)
    return {"lines": found.lines, "stages": names}


def calls(frame: str) -> list[str]:
    """The same by call of OpenCV and of the network; what lies between two calls is "between"."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    from edge_mnist.demo.reading import reader

    names = ["start"]

    def counted(name: str, call):  # type: ignore[no-untyped-def]
        def marked(*values, **options):  # type: ignore[no-untyped-def]
            caller = sys._getframe(1).f_code
            where = f"{os.path.basename(caller.co_filename)[:-3]}.{caller.co_name}"
            os.getppid()
            names.append(f"{where} between")
            result = call(*values, **options)
            os.getppid()
            names.append(f"{where} {name}")
            return result

        return marked

    reads, image = reader.Reader(), np.load(frame)
    for _ in range(2):
        reads.read(image)
    for name in dir(cv2):
        call = getattr(cv2, name)
        if callable(call) and not isinstance(call, type) and name[0].islower():
            setattr(cv2, name, counted(name, call))
    reads.classifier.run = counted("run", reads.classifier.run)
    os.getppid()
    reads.read(image)
    os.getppid()
    names.append("end")
    return names


def outputs(kind: str) -> int:
    """Run every NAME.tflite here on its images, NAME.npy, and keep what it gives in NAME.KIND.npy.

    Args:
        kind: "litert"; "plain", LiteRT without XNNPACK; "tflite-runtime".
    """
    import glob

    import numpy as np

    options = {}
    if kind == "tflite-runtime":
        from tflite_runtime.interpreter import Interpreter
    else:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        if kind == "plain":
            options["experimental_op_resolver_type"] = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    models = glob.glob("*.tflite")
    for model in models:
        name = model.removesuffix(".tflite")
        images = np.load(f"{name}.npy")
        interpreter = Interpreter(model, num_threads=1, **options)
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
        interpreter.invoke()
        np.save(f"{name}.{kind}.npy", interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return len(models)


def memory_of_model(model: str) -> dict[str, int]:
    """KiB of this process: Python, with NumPy, with the runtime and an opened model that has run."""
    found = {"Python": resident()}
    import numpy as np

    found["NumPy"] = resident()
    interpreter = _interpreter(model)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.zeros((1, 28, 28, 1), np.int8))
    interpreter.invoke()
    return {**found, "model": resident()}


def memory_of_demo(arguments: str) -> dict[str, int]:
    """KiB of a demo that has read `FRAMES` frames: always the one in frame.npy, as drawing some takes memory too."""
    from edge_mnist.cli.commands import commands
    from edge_mnist.demo.live import loop
    from edge_mnist.demo.sources import source

    read_live, found = loop.read_live, {}

    def frames(_: object):  # type: ignore[no-untyped-def]
        import time

        import numpy as np

        while True:
            yield np.load("frame.npy")
            time.sleep(0.05)

    source.Source.open_frames = frames

    def counted(*values, **options):  # type: ignore[no-untyped-def]
        for number, result in enumerate(read_live(*values, **options), 1):
            yield result
            if number == FRAMES:
                found["demo"] = resident()
                return

    loop.read_live = counted
    commands.main(["demo", *arguments.split()], standalone_mode=False)
    return found


def resident() -> int:
    """KiB of this process in memory that are the emulated program's own, without the emulator's.

    qemu-user answers /proc/self/maps with the emulated program's addresses, which are the process's own here; another
    name of the same folder leads to the kernel's answer.
    """
    with open("/proc/self/maps") as maps:
        ranges = [tuple(int(address, 16) for address in line.split()[0].split("-")) for line in maps]
    total, inside = 0, False
    with open("/proc/thread-self/smaps") as areas:
        for line in areas:
            word = line.split(maxsplit=2)
            if word[0] == "Rss:":
                total += int(word[1]) if inside else 0
            elif not word[0].endswith(":"):
                start = int(word[0].partition("-")[0], 16)
                inside = any(first <= start < last for first, last in ranges)
    return total


def _interpreter(model: str):  # type: ignore[no-untyped-def]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


TASKS = {
    "inference": inference,
    "reading": reading,
    "calls": calls,
    "outputs": outputs,
    "memory-of-model": memory_of_model,
    "memory-of-demo": memory_of_demo,
}

if __name__ == "__main__":
    answer = TASKS[sys.argv[1]](sys.argv[2])
    print(json.dumps(answer))
