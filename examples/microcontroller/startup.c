/* The vector table, the reset handler, and the two semihosting calls that replace a vendor's library. */
#include <stdint.h>

#include "startup.h"

extern uint32_t stack_top, data_load, data_start, data_end, bss_start, bss_end;

int main(void);

static int semihost(int operation, const void *argument) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void print(const char *text) {
    semihost(0x04, text); /* SYS_WRITE0 */
}

static void stop(int failed) {
    /* SYS_EXIT with ADP_Stopped_ApplicationExit, or ADP_Stopped_RunTimeErrorUnknown */
    semihost(0x18, (const void *)(uintptr_t)(failed ? 0x20023 : 0x20026));
    for (;;) {
    }
}

void reset(void) {
    uint32_t *from = &data_load, *to = &data_start;
    while (to < &data_end) *to++ = *from++;
    for (to = &bss_start; to < &bss_end; ++to) *to = 0;
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: enable the floating-point unit */
    __asm__ volatile("dsb\n isb");
#endif
    stop(main());
}

static void fault(void) {
    print("fault\n");
    stop(1);
}

struct vectors {
    const void *stack;
    void (*handlers[15])(void);
};

__attribute__((section(".vectors"), used)) static const struct vectors vectors = {
    &stack_top, {reset, fault, fault, fault, fault, fault},
};
