/* What startup.c gives to main. */
#ifndef STARTUP_H
#define STARTUP_H

void print(const char *text);

#endif
