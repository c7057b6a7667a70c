#!/bin/sh
# The making of a network like the shipped one: two wide networks, trained twice over, teach the small one, which then learns digits
# as the reader cuts them. Goes on where it was stopped. `benchmarks/best.sh FOLDER [SEED]`, or `make best`.
set -eu
folder=${1:?benchmarks/best.sh FOLDER [SEED]: where should the runs go?}
seed=${2:-0}
teacher='--network edge_mnist.training.network:wide --set label_smoothing=0 --set outliers=0'

train() { # NAME OPTIONS...
    out=$folder/$1
    shift
    resume=
    [ ! -e "$out/state.safetensors" ] || resume=--resume
    "${PYTHON:-python3}" -m edge_mnist train --recipe best --out "$out" $resume "$@"
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
    "${PYTHON:-python3}" -m benchmarks.hands "$folder/hands" --strings 5000 --seed 8 ${FONTS:+--fonts "$FONTS" --pages 5200}
    touch "$folder/hands/made"
}
small=$folder/best-$seed/checkpoint.safetensors
train "reading-$seed" --seed "$seed" --epochs 56 --lr 0.008 --set cooldown_epochs=6 --set label_smoothing=0 \
    --set rotation=12 --set scale=0.12 --set shear=0.12 --set stroke=0.2 --set degradation=0.05 \
    --set outliers=0.25 --set weight_decay=0.00001 --set user_digits=1 \
    --user-digits "$folder/hands" --init "$small" --teacher "$small"
