#!/bin/sh
# The making of the shipped network: two wide networks, trained twice over, teach the small one. Goes on where it was
# stopped. `benchmarks/best.sh FOLDER [SEED]`, or `make best`.
set -eu
folder=${1:?benchmarks/best.sh FOLDER [SEED]: where should the five runs go?}
seed=${2:-0}
teacher='--network edge_mnist.network:wide --set label_smoothing=0 --set outliers=0'

train() { # NAME OPTIONS...
    out=$folder/$1
    shift
    resume=
    [ ! -e "$out/state.safetensors" ] || resume=--resume
    "${PYTHON:-python3}" -m edge_mnist train --recipe best --out "$out" $resume "$@"
}

for n in 0 1; do
    train "teacher-$n-first" $teacher --seed 10$n --epochs 30 --set calm=20
    train "teacher-$n" $teacher --seed 11$n --epochs 14 --lr 0.004 --set calm=4 --init "$folder/teacher-$n-first/checkpoint.safetensors"
done
train "best-$seed" --seed "$seed" \
    --teacher "$folder/teacher-0/checkpoint.safetensors" --teacher "$folder/teacher-1/checkpoint.safetensors"
