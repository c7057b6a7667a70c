/* Classifies the digit in digit.h and prints its class and its logits. */
#include "digit.h"
#include "model.h"
#include "startup.h"

#ifndef REPETITIONS
#define REPETITIONS 1 /* runs with different numbers show how many instructions one classification takes */
#endif

static uint8_t arena[EDGE_MNIST_ARENA_SIZE];
static int8_t logits[EDGE_MNIST_CLASSES];

static void print_number(int number) {
    char text[12];
    char *at = text + sizeof text - 1;
    unsigned rest = number < 0 ? -(unsigned)number : (unsigned)number;
    *at = 0;
    do *--at = (char)('0' + rest % 10);
    while (rest /= 10);
    if (number < 0) *--at = '-';
    print(at);
}

int main(void) {
    int digit = 0, i;
    for (i = 0; i < REPETITIONS; ++i) digit = edge_mnist_run(digit_pixels, logits, arena, sizeof arena);
    if (digit < 0) return 1;
    print("digit ");
    print_number(digit);
    print("\nlogits");
    for (i = 0; i < EDGE_MNIST_CLASSES; ++i) {
        print(" ");
        print_number(logits[i]);
    }
    print("\n");
    return 0;
}
