#!/bin/sh
# The making of the shipped network: two wide networks, trained twice over, teach the small one, which then learns digits
# as the reader cuts them. Goes on where it was stopped. `benchmarks/best.sh FOLDER [SEED]`, or `make best`.
set -eu
folder=${1:?benchmarks/best.sh FOLDER [SEED]: where should the runs go?}
seed=${2:-0}
teacher='--network edge_mnist.training.network:wide --set label_smoothing=0 --set outliers=0'

recipe=best
train() { # NAME OPTIONS...
    out=$folder/$1
    shift
    resume=
    [ ! -e "$out/state.safetensors" ] || resume=--resume
    "${PYTHON:-python3}" -m edge_mnist train --recipe "$recipe" --out "$out" $resume "$@"
}

for n in 0 1; do
    train "teacher-$n-first" $teacher --seed 10$n --epochs 30 --set cooldown_epochs=20
    train "teacher-$n" $teacher --seed 11$n --epochs 14 --lr 0.004 --set cooldown_epochs=4 --init "$folder/teacher-$n-first/checkpoint.safetensors"
done
train "best-$seed" --seed "$seed" \
    --teacher "$folder/teacher-0/checkpoint.safetensors" --teacher "$folder/teacher-1/checkpoint.safetensors"

# What it read right it keeps, as its own teacher; what the reader cuts, it learns from the labels. FONTS is a folder with
# fonts, as for the training of the finder; without it, only MNIST's digits and drawn ones are cut.
[ -e "$folder/hands/made" ] || {
    rm -rf "$folder/hands"
    "${PYTHON:-python3}" -m benchmarks.hands "$folder/hands" --strings 4000 --seed 8 ${FONTS:+--fonts "$FONTS" --pages 4500}
    touch "$folder/hands/made"
}
small=$folder/best-$seed/checkpoint.safetensors
recipe=tune
changes='--set rotation=12 --set scale=0.12 --set shear=0.12 --set stroke=0.2 --set degradation=0.05 --set outliers=0.3'
changes="$changes --set weight_decay=0.00001"
train "reading-$seed-first" --seed "$seed" --epochs 10 --lr 0.004 $changes \
    --user-digits "$folder/hands" --init "$small" --teacher "$small"
train "reading-$seed-second" --seed "$seed" --epochs 16 --lr 0.003 --set cooldown_epochs=3 $changes \
    --user-digits "$folder/hands" --init "$folder/reading-$seed-first/checkpoint.safetensors" --teacher "$small"
train "reading-$seed" --seed "$seed" --epochs 13 --lr 0.005 --set cooldown_epochs=3 $changes --set outliers=0.25 \
    --user-digits "$folder/hands" --init "$folder/reading-$seed-second/checkpoint.safetensors" --teacher "$small"
