/* Lets the n-th file system call of this process fail. Loaded with LD_PRELOAD; armed by the program itself, so that
 * nothing of the interpreter's start is counted. One thread only. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPENS = 1, READS = 2, WRITES = 4, WATCHES = 8, MEMORY = 16 };

static long left, matched;
static int error, forever, mask, armed;

void fault_arm(long n, int err, int for_good, int kinds) {
    left = n; error = err; forever = for_good; mask = kinds; matched = 0; armed = 1;
}
void fault_pause(int paused) { armed = !paused; }
long fault_disarm(void) { armed = 0; return matched; }

static int fails(int kind) {
    if (!armed || !(kind & mask)) return 0;
    matched++;
    if (matched == left || (forever && matched > left)) { errno = error; return 1; }
    return 0;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define WRAP(kind, failure, type, name, parameters, arguments) \
    type name parameters { REAL(name); return fails(kind) ? failure : real arguments; }

static int kind_of(int flags) { return OPENS | (flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC) ? WRITES : READS); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return fails(kind_of(flags)) ? -1 : real(path, flags, mode); }
#define OPENAT(name) \
    int name(int dir, const char *path, int flags, ...) { \
        REAL(name); va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return fails(kind_of(flags)) ? -1 : real(dir, path, flags, mode); }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

static int regular(int fd) { struct stat found; return fstat(fd, &found) == 0 && S_ISREG(found.st_mode); }

ssize_t read(int fd, void *data, size_t size) {
    REAL(read);
    return regular(fd) && fails(READS) ? -1 : real(fd, data, size);
}
ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    return regular(fd) && fails(WRITES) ? -1 : real(fd, data, size);
}
WRAP(WRITES, -1, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
WRAP(WRITES, -1, int, ftruncate64, (int fd, off64_t size), (fd, size))
WRAP(WRITES, -1, int, fsync, (int fd), (fd))
WRAP(WRITES, -1, int, rename, (const char *from, const char *to), (from, to))
WRAP(WRITES, -1, int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(WRITES, -1, int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
WRAP(WRITES, -1, int, unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
WRAP(WRITES, -1, int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(WRITES, -1, int, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode))
WRAP(OPENS | READS, NULL, DIR *, opendir, (const char *path), (path))
WRAP(READS, NULL, DIR *, fdopendir, (int fd), (fd))
WRAP(READS, NULL, struct dirent64 *, readdir64, (DIR *directory), (directory))
WRAP(READS, -1, int, stat64, (const char *path, struct stat64 *found), (path, found))
WRAP(READS, -1, int, lstat64, (const char *path, struct stat64 *found), (path, found))
WRAP(READS, -1, int, fstat64, (int fd, struct stat64 *found), (fd, found))
WRAP(READS, -1, int, fstatat64, (int dir, const char *path, struct stat64 *found, int flags), (dir, path, found, flags))
WRAP(WRITES, -1, int, chmod, (const char *path, mode_t mode), (path, mode))
WRAP(MEMORY, -1, int, flock, (int fd, int how), (fd, how))
WRAP(WATCHES, -1, int, inotify_add_watch, (int fd, const char *path, uint32_t mask), (fd, path, mask))
WRAP(OPENS, -1, int, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP(OPENS, -1, int, accept4, (int fd, __SOCKADDR_ARG peer, socklen_t *size, int flags), (fd, peer, size, flags))
WRAP(WRITES, -1, int, bind, (int fd, __CONST_SOCKADDR_ARG address, socklen_t size), (fd, address, size))
WRAP(MEMORY, -1, int, connect, (int fd, __CONST_SOCKADDR_ARG address, socklen_t size), (fd, address, size))
WRAP(MEMORY, -1, ssize_t, send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags))
WRAP(MEMORY, -1, ssize_t, recv, (int fd, void *data, size_t size, int flags), (fd, data, size, flags))
WRAP(MEMORY, -1, ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
