/* Names every state-changing call of a process below one root, and kills, stops, delays or fails it at one of them.
 *
 * Loaded with LD_PRELOAD by pillar/crashpoints/control.py, which explains the files in PILLAR_CRASHPOINTS:
 *   agents      "name<TAB>word": a process with that argument is that agent (or PILLAR_CRASHPOINTS_AGENT names it)
 *   plan.<n>    of epoch n: root, labels, what to leave out, the faults
 *   state       shared by all processes: the epoch, which faults fired and were lifted (bits), the wall clock, the trace
 * Counts are per process and start anew with each epoch and each fired fault. A call is counted and may be faulted
 * before it happens, and its result is noted behind it. Children (vfork, fork) do not count: they are not the agent.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* What an errno may hit; the same numbers stand in plan.py. */
enum { NAME = 1, WRITE = 2, OPEN = 4, SYNC = 8, LOCK = 16, SEND = 32, SPAWN = 64, LOOK = 128, ATTRIBUTE = 256 };

struct shared {
    _Atomic uint32_t epoch, fired, lifted, lost; /* of faults: a bit each */
    _Atomic int64_t clock; /* seconds that the wall clock is off */
    _Atomic uint64_t used;
    uint64_t size;
    char trace[];
};

struct fault { char agent[64], call[16], path[512], action[16]; long occurrence; int number, kinds; };
struct label { char text[160], as[64]; };

enum { FAULTS = 16, LABELS = 64, IGNORED = 64 };
static struct shared *shared;
static pid_t me;
static char control[PATH_MAX], agent[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Of the present epoch, under the lock. */
static uint32_t epoch, counted_since;
static long matched[FAULTS];
static char root[PATH_MAX];
static size_t root_length;
static int with_data, plain_names, together;
static struct fault faults[FAULTS];
static int fault_count;
static struct label labels[LABELS];
static int label_count;
static struct label ignored[IGNORED];
static int ignored_count;

static int mine(void) { return shared && (pid_t)syscall(SYS_getpid) == me; }

static ssize_t slurp(const char *path, char *into, size_t size) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    ssize_t length = 0, got;
    while (length < (ssize_t)size - 1 && (got = syscall(SYS_read, fd, into + length, size - 1 - length)) > 0) length += got;
    syscall(SYS_close, fd);
    into[length] = 0;
    return length;
}

static void copy(char *to, size_t size, const char *from) { snprintf(to, size, "%s", from); }

static void load_plan(uint32_t number) {
    static char text[256 * 1024];
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/plan.%u", control, number);
    fault_count = label_count = ignored_count = with_data = plain_names = together = 0;
    root_length = 0;
    memset(matched, 0, sizeof matched);
    counted_since = 0;
    epoch = number;
    if (slurp(path, text, sizeof text) < 0) return;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char *word[8] = {0};
        int words = 0;
        while (words < 8 && (word[words] = strsep(&line, "\t"))) words++;
        if (words >= 2 && !strcmp(word[0], "root")) {
            copy(root, sizeof root, word[1]);
            root_length = strlen(root);
        } else if (words >= 2 && !strcmp(word[0], "data")) {
            with_data = atoi(word[1]);
        } else if (words >= 2 && !strcmp(word[0], "plain")) {
            plain_names = atoi(word[1]);
        } else if (words >= 2 && !strcmp(word[0], "together")) {
            together = atoi(word[1]);
        } else if (words >= 3 && !strcmp(word[0], "label") && label_count < LABELS) {
            copy(labels[label_count].text, sizeof labels->text, word[1]);
            copy(labels[label_count++].as, sizeof labels->as, word[2]);
        } else if (words >= 3 && !strcmp(word[0], "ignore") && ignored_count < IGNORED) {
            copy(ignored[ignored_count].text, sizeof ignored->text, word[2]);
            copy(ignored[ignored_count++].as, sizeof ignored->as, word[1]);
        } else if (words >= 8 && !strcmp(word[0], "fault") && fault_count < FAULTS) {
            struct fault *f = &faults[fault_count++];
            copy(f->agent, sizeof f->agent, word[1]);
            copy(f->call, sizeof f->call, word[2]);
            copy(f->path, sizeof f->path, word[3]);
            f->occurrence = atol(word[4]);
            copy(f->action, sizeof f->action, word[5]);
            f->number = atoi(word[6]);
            f->kinds = atoi(word[7]);
        }
    }
}

/* ---- who we are */

static void find_agent(void) {
    static char words[64 * 1024], known[16 * 1024];
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/agents", control);
    ssize_t length = slurp("/proc/self/cmdline", words, sizeof words);
    if (length <= 0 || slurp(path, known, sizeof known) < 0) return;
    char *rest = known, *line;
    while ((line = strsep(&rest, "\n"))) {
        char *name = strsep(&line, "\t");
        if (!line || !*line) continue;
        for (char *word = words; word < words + length; word += strlen(word) + 1)
            if (!strcmp(word, line)) { copy(agent, sizeof agent, name); return; }
    }
}

static void be_agent(void) {
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/state", control);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    struct stat found;
    if (fd < 0) return;
    if (fstat(fd, &found) == 0 && found.st_size > (off_t)sizeof *shared) {
        void *at = mmap(0, found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at != MAP_FAILED) { me = getpid(); shared = at; }
    }
    syscall(SYS_close, fd);
}

__attribute__((constructor)) static void begin(void) {
    const char *directory = getenv("PILLAR_CRASHPOINTS"), *name = getenv("PILLAR_CRASHPOINTS_AGENT");
    if (!directory) return;
    copy(control, sizeof control, directory);
    if (name) {
        /* An exec keeps the pid (`/usr/bin/env python3 agent.py`); a child has another one and is not the agent. */
        const char *first = getenv("PILLAR_CRASHPOINTS_PID");
        char pid[16];
        snprintf(pid, sizeof pid, "%d", (int)getpid());
        if (first && strcmp(first, pid)) return;
        setenv("PILLAR_CRASHPOINTS_PID", pid, 1);
        copy(agent, sizeof agent, name);
    } else {
        find_agent();
    }
    if (agent[0]) be_agent();
}

/* For a process that was forked off one that is no agent: from now on it is this one. No other thread may run. */
void crashpoints_become(const char *name) {
    if (!control[0] || shared) return;
    copy(agent, sizeof agent, name);
    be_agent();
}

/* ---- names */

static int of_fd(int fd, char *out, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlink, link, out, size - 1);
    if (length < 0) return 0;
    out[length] = 0;
    char *gone = strstr(out, " (deleted)");
    if (gone) *gone = 0;
    return 1;
}

static int absolute(int directory, const char *path, char *out, size_t size) {
    int fd, taken = 0;
    if (!path) return 0;
    if (sscanf(path, "/proc/self/fd/%d%n", &fd, &taken) == 1) { directory = fd; path += taken; while (*path == '/') path++; }
    else if (path[0] == '/') { copy(out, size, path); return 1; }
    if (directory == AT_FDCWD) { if (syscall(SYS_getcwd, out, size) < 0) return 0; }
    else if (!of_fd(directory, out, size)) return 0;
    size_t length = strlen(out);
    while (!strncmp(path, "./", 2)) path += 2;
    if (*path && strcmp(path, ".")) snprintf(out + length, size - length, "/%s", path);
    return 1;
}

static int word_char(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static int hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

static size_t uuid_at(const char *s) {
    for (int i = 0; i < 36; i++) if (i == 8 || i == 13 || i == 18 || i == 23 ? s[i] != '-' : !hex(s[i])) return 0;
    return 36;
}

/* The path below the root, with labels for what the plan knows and a mark for what chance made. */
static int name_of(const char *path, char *out, size_t size) {
    if (!root_length || strncmp(path, root, root_length) || (path[root_length] && path[root_length] != '/')) return 0;
    const char *s = path + root_length;
    size_t n = 0;
    char before = '/';
    int hidden = 0; /* within a name that begins with a dot: mkstemp's eight characters may stand at its end */
    if (!*s) s = "/";
    while (*s && n + 70 < size) {
        const char *mark = NULL;
        size_t taken = 0;
        if (plain_names) goto plain;
        if (*s == '/') hidden = s[1] == '.';
        for (int i = 0; i < label_count && !taken; i++) {
            size_t length = strlen(labels[i].text);
            if (length && !strncmp(s, labels[i].text, length)) { taken = length; mark = labels[i].as; }
        }
        if (!taken && !word_char(before)) {
            size_t run = 0, digits = 0;
            if ((taken = uuid_at(s))) mark = "<uuid>";
            else {
                while (word_char(s[run])) run++;
                while (s[digits] >= '0' && s[digits] <= '9') digits++;
                size_t hexes = 0;
                while (hex(s[hexes])) hexes++;
                if (hexes == run && run >= 32) { taken = run; mark = "<hash>"; }
                else if (digits == run && run >= 3) { taken = run; mark = "<number>"; }
                else if (run >= 11 && !strncmp(s, "tmp", 3)) { taken = run; mark = "<tmp>"; }
                else if (hidden && before == '.' && run == 8 && (!s[8] || s[8] == '/')) { taken = run; mark = "<tmp>"; }
            }
        }
        if (taken) { n += (size_t)snprintf(out + n, size - n, "%s", mark); before = s[taken - 1]; s += taken; continue; }
    plain:
        before = *s;
        if (*s == '\t' || *s == '\n' || *s == ' ' || *s == '%' || (unsigned char)*s < 32)
            n += (size_t)snprintf(out + n, size - n, "%%%02X", (unsigned char)*s);
        else out[n++] = *s;
        s++;
    }
    out[n] = 0;
    return 1;
}

/* ---- one call */

struct event { int fails; char *result; };

static void append_escaped(char **at, const char *data, size_t size) {
    static const char digits[] = "0123456789ABCDEF";
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c < 33 || c == '%' || c > 126) { *(*at)++ = '%'; *(*at)++ = digits[c >> 4]; *(*at)++ = digits[c & 15]; }
        else *(*at)++ = (char)c;
    }
}

/* Appends "time pid agent call path other result data"; the result is "?" until the call came back. */
static char *note(uint32_t in_epoch, const char *call, const char *path, const char *other, const char *data, size_t size) {
    struct timespec now;
    char head[2048];
    if (!data) size = 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(head, sizeof head, "%u\t%lld\t%d\t%s\t%s\t%s\t%s\t", in_epoch,
                          (long long)now.tv_sec * 1000000000LL + now.tv_nsec, (int)me, agent, call, path, other);
    if (length >= (int)sizeof head) return NULL;
    char *at = NULL;
    size_t escaped = 0;
    for (size_t i = 0; i < size; i++) { unsigned char c = (unsigned char)data[i]; escaped += c < 33 || c == '%' || c > 126 ? 3 : 1; }
    uint64_t whole = (uint64_t)length + 2 + escaped + 1, start = atomic_fetch_add(&shared->used, whole);
    if (start + whole > shared->size) { atomic_fetch_add(&shared->lost, 1); return NULL; }
    at = shared->trace + start;
    char *first = at;
    memcpy(at + 1, head + 1, (size_t)length - 1);
    at += length;
    char *result = at;
    *at++ = '?';
    *at++ = '\t';
    append_escaped(&at, data, size);
    *at = '\n';
    *(volatile char *)first = head[0]; /* last: a line that begins with NUL is not whole */
    return result;
}

static void die(void) { for (;;) syscall(SYS_kill, me, SIGKILL); }

static int allowed(const struct fault *f, int kind) { return !f->kinds || (f->kinds & kind); }

/* Before a call. 0: let it happen; else the errno it fails with. */
static int step_at(struct event *e, const char *call, int kind, const char *path, const char *other_path, long long at,
                   const char *data, size_t size) {
    char name[1024], other[1024] = "";
    e->result = NULL;
    e->fails = 0;
    int what = 0, number = 0;
    pthread_mutex_lock(&lock);
    uint32_t now = atomic_load(&shared->epoch);
    if (now != epoch) load_plan(now);
    if (path[0] == '/' ? !name_of(path, name, sizeof name) : (copy(name, sizeof name, path), !root_length)) goto out;
    if (other_path) name_of(other_path, other, sizeof other);
    else if (with_data && at >= 0) snprintf(other, sizeof other, "%lld", at);
    for (int i = 0; i < ignored_count; i++)
        if ((!strcmp(ignored[i].as, "*") || !strcmp(ignored[i].as, call)) && !fnmatch(ignored[i].text, name, 0)) goto out;
    e->result = note(now, call, name, other, with_data ? data : NULL, size);
    uint32_t fired = atomic_load(&shared->fired);
    if (fired != counted_since && !together) { counted_since = fired; memset(matched, 0, sizeof matched); }
    for (int i = 0; i < fault_count; i++) { /* those for good */
        struct fault *f = &faults[i];
        if (!((fired & ~atomic_load(&shared->lifted)) >> i & 1) || strcmp(f->agent, agent) || !allowed(f, kind)) continue;
        if (!strcmp(f->action, "errors")) {
            static long every;
            if (f->number == EINTR && every++ % 2) continue; /* a signal a call, not a call that never ends */
            e->fails = f->number;
        } else if (!strcmp(f->action, "delays")) { what = 'd'; number = f->number; }
    }
    for (int i = 0; i < fault_count && (together || !e->fails); i++) { /* whose call this may be: the next one, or all */
        struct fault *f = &faults[i];
        if (fired >> i & 1) continue;
        int fits = !strcmp(f->agent, agent) && (!strcmp(f->call, "*") ? allowed(f, kind) : !strcmp(f->call, call))
            && (!strcmp(f->path, "*") || !strcmp(f->path, name));
        if (fits && ++matched[i] == f->occurrence && !(atomic_fetch_or(&shared->fired, 1u << i) >> i & 1)) {
            if (!strcmp(f->action, "kill")) { if (e->result) *e->result = 'K'; die(); }
            else if (!strcmp(f->action, "stop")) what = 's';
            else if (!strncmp(f->action, "error", 5)) { if (allowed(f, kind)) e->fails = f->number; }
            else if (!strncmp(f->action, "delay", 5)) { what = 'd'; number = f->number; }
        }
        if (!together) break;
    }
    if (e->fails && e->result) *e->result = 'E';
out:
    pthread_mutex_unlock(&lock);
    if (what == 's') syscall(SYS_kill, me, SIGSTOP);
    if (what == 'd') { struct timespec pause = {number / 1000, (number % 1000) * 1000000L}; syscall(SYS_nanosleep, &pause, NULL); }
    return e->fails;
}

static int step(struct event *e, const char *call, int kind, const char *path, const char *other_path, const char *data, size_t size) {
    return step_at(e, call, kind, path, other_path, -1, data, size);
}

static void done(struct event *e, long result) { if (e->result && *e->result == '?') *e->result = result < 0 ? '-' : '+'; }

enum { HERE = -2 }; /* a write goes where the file stands */

static int step_path(struct event *e, const char *call, int kind, int directory, const char *path) {
    char whole[PATH_MAX];
    e->result = NULL;
    e->fails = 0;
    return absolute(directory, path, whole, sizeof whole) ? step(e, call, kind, whole, NULL, NULL, 0) : 0;
}

static int step_two(struct event *e, const char *call, int from_directory, const char *from, int to_directory, const char *to) {
    char whole[PATH_MAX], other[PATH_MAX];
    e->result = NULL;
    e->fails = 0;
    if (!absolute(to_directory, to, whole, sizeof whole)) return 0;
    return step(e, call, NAME, whole, absolute(from_directory, from, other, sizeof other) ? other : NULL, NULL, 0);
}

static int step_fd(struct event *e, const char *call, int kind, int fd, long long at, const void *data, size_t size) {
    char whole[PATH_MAX];
    struct stat found;
    e->result = NULL;
    e->fails = 0;
    /* A pipe or a socket may be written to from a signal's handler: no lock is taken for them. */
    if (fstat(fd, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)) || !of_fd(fd, whole, sizeof whole)) return 0;
    if (at == HERE && with_data) at = fcntl(fd, F_GETFL) & O_APPEND ? found.st_size : lseek(fd, 0, SEEK_CUR);
    return step_at(e, call, kind, whole, NULL, at, data, size);
}

static int step_socket(struct event *e, const char *call, int fd, const struct sockaddr *to) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    e->result = NULL;
    e->fails = 0;
    if (!to) { if (getsockname(fd, (struct sockaddr *)&address, &length)) return 0; to = (struct sockaddr *)&address; }
    const char *family = to->sa_family == AF_UNIX ? "unix" : to->sa_family == AF_NETLINK ? "netlink" : "internet";
    return step(e, call, SEND, family, NULL, NULL, 0);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRAP(type, failure, name, parameters, arguments, check) \
    type name parameters { \
        REAL(name); \
        if (!mine()) return real arguments; \
        int saved = errno; \
        struct event e; \
        int fails = check; \
        errno = saved; \
        if (fails) { errno = fails; return failure; } \
        type result = real arguments; \
        saved = errno; \
        done(&e, (long)result); \
        errno = saved; \
        return result; \
    }

static int step_open(struct event *e, int directory, const char *path, int flags) {
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    if ((flags & O_TMPFILE) == O_TMPFILE) return step_path(e, "create", NAME | OPEN | WRITE, directory, path);
    if (flags & O_CREAT) return step_path(e, flags & O_TRUNC ? "create" : "open", NAME | OPEN | WRITE, directory, path);
    if (flags & O_TRUNC) return step_path(e, "truncate", WRITE | OPEN, directory, path);
    if (flags & (O_DIRECTORY | O_PATH)) return step_path(e, "enter", OPEN, directory, path);
    return step_path(e, writes ? "open" : "look", writes ? OPEN : LOOK | OPEN, directory, path);
}

#define OPEN_AT(name) \
    int name(int directory, const char *path, int flags, ...) { \
        REAL(name); va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (!mine()) return real(directory, path, flags, mode); \
        int saved = errno; struct event e; int fails = step_open(&e, directory, path, flags); errno = saved; \
        if (fails) { errno = fails; return -1; } \
        int result = real(directory, path, flags, mode); saved = errno; done(&e, result); errno = saved; return result; }
#define OPEN_PLAIN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (!mine()) return real(path, flags, mode); \
        int saved = errno; struct event e; int fails = step_open(&e, AT_FDCWD, path, flags); errno = saved; \
        if (fails) { errno = fails; return -1; } \
        int result = real(path, flags, mode); saved = errno; done(&e, result); errno = saved; return result; }
OPEN_PLAIN(open)
OPEN_PLAIN(open64)
OPEN_AT(openat)
OPEN_AT(openat64)

WRAP(ssize_t, -1, write, (int fd, const void *data, size_t size), (fd, data, size), step_fd(&e, "write", WRITE, fd, HERE, data, size))
WRAP(ssize_t, -1, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), step_fd(&e, "write", WRITE, fd, at, data, size))
WRAP(ssize_t, -1, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), step_fd(&e, "write", WRITE, fd, at, data, size))
WRAP(ssize_t, -1, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), step_fd(&e, "write", WRITE, fd, -1, NULL, 0))
WRAP(ssize_t, -1, sendfile64, (int to, int from, off64_t *at, size_t count), (to, from, at, count), step_fd(&e, "write", WRITE, to, -1, NULL, 0))
WRAP(ssize_t, -1, copy_file_range, (int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags), (from, at, to, there, size, flags), step_fd(&e, "write", WRITE, to, -1, NULL, 0))
WRAP(int, -1, ftruncate, (int fd, off_t size), (fd, size), step_fd(&e, "truncate", WRITE, fd, size, NULL, 0))
WRAP(int, -1, ftruncate64, (int fd, off64_t size), (fd, size), step_fd(&e, "truncate", WRITE, fd, size, NULL, 0))
WRAP(int, -1, fsync, (int fd), (fd), step_fd(&e, "fsync", SYNC, fd, -1, NULL, 0))
WRAP(int, -1, fdatasync, (int fd), (fd), step_fd(&e, "fsync", SYNC, fd, -1, NULL, 0))
WRAP(int, -1, flock, (int fd, int how), (fd, how), step_fd(&e, "flock", LOCK, fd, -1, NULL, 0))
WRAP(int, -1, fchmod, (int fd, mode_t mode), (fd, mode), step_fd(&e, "chmod", ATTRIBUTE, fd, -1, NULL, 0))
WRAP(int, -1, futimens, (int fd, const struct timespec times[2]), (fd, times), step_fd(&e, "utime", ATTRIBUTE, fd, -1, NULL, 0))
WRAP(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), step_path(&e, "mkdir", NAME, AT_FDCWD, path))
WRAP(int, -1, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), step_path(&e, "mkdir", NAME, at, path))
WRAP(int, -1, rmdir, (const char *path), (path), step_path(&e, "rmdir", NAME, AT_FDCWD, path))
WRAP(int, -1, unlink, (const char *path), (path), step_path(&e, "unlink", NAME, AT_FDCWD, path))
WRAP(int, -1, unlinkat, (int at, const char *path, int flags), (at, path, flags), step_path(&e, flags & AT_REMOVEDIR ? "rmdir" : "unlink", NAME, at, path))
WRAP(int, -1, chmod, (const char *path, mode_t mode), (path, mode), step_path(&e, "chmod", ATTRIBUTE, AT_FDCWD, path))
WRAP(int, -1, fchmodat, (int at, const char *path, mode_t mode, int flags), (at, path, mode, flags), step_path(&e, "chmod", ATTRIBUTE, at, path))
WRAP(int, -1, utimensat, (int at, const char *path, const struct timespec times[2], int flags), (at, path, times, flags), step_path(&e, "utime", ATTRIBUTE, at, path))
WRAP(int, -1, rename, (const char *from, const char *to), (from, to), step_two(&e, "rename", AT_FDCWD, from, AT_FDCWD, to))
WRAP(int, -1, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), step_two(&e, "rename", a, from, b, to))
WRAP(int, -1, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags), step_two(&e, "rename", a, from, b, to))
WRAP(int, -1, link, (const char *from, const char *to), (from, to), step_two(&e, "link", AT_FDCWD, from, AT_FDCWD, to))
WRAP(int, -1, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), step_two(&e, "link", a, from, b, to))
WRAP(int, -1, symlink, (const char *target, const char *path), (target, path), step_path(&e, "symlink", NAME, AT_FDCWD, path))
WRAP(int, -1, symlinkat, (const char *target, int at, const char *path), (target, at, path), step_path(&e, "symlink", NAME, at, path))
WRAP(ssize_t, -1, send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags), step_socket(&e, "send", fd, NULL))
WRAP(ssize_t, -1, sendto, (int fd, const void *data, size_t size, int flags, __CONST_SOCKADDR_ARG to, socklen_t length), (fd, data, size, flags, to, length), step_socket(&e, "send", fd, NULL))
WRAP(ssize_t, -1, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), step_socket(&e, "send", fd, NULL))
WRAP(int, -1, connect, (int fd, __CONST_SOCKADDR_ARG to, socklen_t length), (fd, to, length), step_socket(&e, "connect", fd, NULL))
WRAP(int, -1, bind, (int fd, __CONST_SOCKADDR_ARG to, socklen_t length), (fd, to, length), step_socket(&e, "bind", fd, NULL))
WRAP(int, -1, kill, (pid_t pid, int number), (pid, number), number ? step(&e, "signal", 0, "process", NULL, NULL, 0) : (e.result = NULL, 0))
WRAP(pid_t, -1, fork, (void), (), step(&e, "spawn", SPAWN, "process", NULL, NULL, 0))
WRAP(DIR *, NULL, opendir, (const char *path), (path), step_path(&e, "list", LOOK | OPEN, AT_FDCWD, path))
WRAP(DIR *, NULL, fdopendir, (int fd), (fd), step_fd(&e, "list", LOOK, fd, -1, NULL, 0))

/* The wall clock of the agents, which may jump. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (!result && clock == CLOCK_REALTIME && shared && atomic_load(&shared->clock) && mine()) now->tv_sec += (time_t)atomic_load(&shared->clock);
    return result;
}

#define SPAWNS(name) \
    int name(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes, \
             char *const words[], char *const environment[]) { \
        REAL(name); \
        struct event e; \
        if (!mine()) return real(pid, path, actions, attributes, words, environment); \
        int fails = step(&e, "spawn", SPAWN, "process", NULL, NULL, 0); \
        if (fails) return fails; \
        int result = real(pid, path, actions, attributes, words, environment); \
        done(&e, -result); \
        return result; }
SPAWNS(posix_spawn)
SPAWNS(posix_spawnp)

/* vfork's child returns first, on this very stack: nothing may be left on it, so this is a jump and not a call. The name
 * of the real one is looked up beforehand, its result cannot be noted. */
typedef pid_t (*vforks)(void);
static vforks real_vfork;
__attribute__((constructor)) static void find_vfork(void) { real_vfork = (vforks)dlsym(RTLD_NEXT, "vfork"); }
__attribute__((used, noinline)) static vforks before_vfork(void) {
    struct event e;
    if (mine()) step(&e, "spawn", 0, "process", NULL, NULL, 0);
    return real_vfork;
}
#if defined(__x86_64__)
__asm__(".globl vfork\n.type vfork,@function\nvfork:\n\tsubq $8, %rsp\n\tcall before_vfork\n\taddq $8, %rsp\n\tjmp *%rax\n.size vfork,.-vfork\n");
#elif defined(__aarch64__)
__asm__(".globl vfork\n.type vfork,%function\nvfork:\n\tstp x29, x30, [sp, #-16]!\n\tbl before_vfork\n\tmov x16, x0\n\tldp x29, x30, [sp], #16\n\tbr x16\n.size vfork,.-vfork\n");
#else
pid_t vfork(void) { return fork(); }
#endif
