/* crashtrace.c -- preloaded into a process under test: at a fatal signal, the C stack goes to standard error by module, so that
 * the suite can tell a death of the interpreter from one in our own modules. Then the signal takes its course. */
#define _GNU_SOURCE
#include <execinfo.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void report(int number)
{
    void *frames[64];
    static const char head[] = "CRASHTRACE\n";
    (void)!write(2, head, sizeof head - 1);
    backtrace_symbols_fd(frames, backtrace(frames, 64), 2);
    signal(number, SIG_DFL);
    raise(number);
}

__attribute__((constructor)) static void install(void)
{
    void *frame[1];
    (void)backtrace(frame, 1); /* loads libgcc now: not in the handler */
    signal(SIGSEGV, report);
    signal(SIGBUS, report);
    signal(SIGABRT, report);
    signal(SIGFPE, report);
}
