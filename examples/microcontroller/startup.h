/* Declares what startup.c offers to main. */
#ifndef STARTUP_H
#define STARTUP_H

void print(const char *text);

#endif
