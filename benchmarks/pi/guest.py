"""Runs a task in the emulated Pi, without the checkout: `python3 guest.py TASK FILE` prints one line of JSON.

The tasks that count instructions call os.getppid() as a mark, at which insn_count.c prints the number of instructions
executed so far. What they print names the work before each mark.
"""

from __future__ import annotations

import json
import os
import sys

RUNS = 20
"""The number of inferences that are counted together."""
BATCH = 10
"""The number of digits in a frame, which are classified together."""
FRAMES = 40
"""The number of frames that a demo reads before its memory is measured."""


def inference(model: str) -> list[list[object]]:
    """Run an int8 model on one thread: the runtime alone, with Python's copies, and in a batch.

    Returns:
        For each mark the name of what comes before it, and the number of inferences in it.
    """
    import numpy as np

    interpreter = _interpreter(model)
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    shape = (BATCH, *interpreter.get_input_details()[0]["shape"][1:])
    images = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
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
    """Read a frame, uint8 (H, W, 3) in an .npy file, as the demo does, with warm caches: its lines, and the stages.

    It is read twice, since the demo's finder looks at the whole of one frame and closely at a part of the next.
    """
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    from edge_mnist.demo.live.recognition import PARAMETERS
    from edge_mnist.demo.reading import reader

    reads, image = reader.Reader(parameters=PARAMETERS), np.load(frame)
    for _ in range(2):
        reads.read(image)
    names = ["start"]
    tick = reader._Clock.tick

    def marked(clock: reader._Clock, stage: str) -> None:
        tick(clock, stage)
        names.append(stage)
        os.getppid()

    reader._Clock.tick = marked  # type: ignore[assignment, method-assign]
    for _ in range(2):
        os.getppid()
        names.append("between")
        found = reads.read(image)
    return {"lines": found.lines, "stages": names[1:]}


def calls(frame: str) -> list[str]:
    """Read a frame, with a mark at each call of OpenCV and of the network; the work before a call is "between"."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    from edge_mnist.demo.live.recognition import PARAMETERS
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

    reads, image = reader.Reader(parameters=PARAMETERS), np.load(frame)
    for _ in range(2):
        reads.read(image)
    for name in dir(cv2):
        call = getattr(cv2, name)
        if callable(call) and not isinstance(call, type) and name[0].islower():
            setattr(cv2, name, counted(name, call))
    for network in (reads.classifier, reads.finder.network):
        network.run = counted("run", network.run)  # type: ignore[method-assign]
    os.getppid()
    reads.read(image)
    os.getppid()
    names.append("end")
    return names


def outputs(kind: str) -> int:
    """Run every NAME.tflite in this folder on its images, NAME.npy, and write the outputs into NAME.KIND.npy.

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
    """Measure the KiB of this process: Python alone, with NumPy, and with the runtime and a model that has run."""
    found = {"Python": measure_resident()}
    import numpy as np

    found["NumPy"] = measure_resident()
    interpreter = _interpreter(model)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.zeros((1, 28, 28, 1), np.int8))
    interpreter.invoke()
    return {**found, "model": measure_resident()}


def memory_of_demo(arguments: str) -> dict[str, int]:
    """Measure the KiB of a demo that has read frame.npy `FRAMES` times; to draw frames would take memory."""
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

    source.Source.open_frames = frames  # type: ignore[assignment, method-assign]

    def counted(*values, **options):  # type: ignore[no-untyped-def]
        for number, result in enumerate(read_live(*values, **options), 1):
            yield result
            if number == FRAMES:
                found["demo"] = measure_resident()
                return

    loop.read_live = counted
    commands.main(["demo", *arguments.split()], standalone_mode=False)
    return found


def measure_resident() -> int:
    """Measure the resident KiB of the emulated program, without those of the emulator.

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
