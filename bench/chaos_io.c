/* Fails a process's writes below a folder while a file exists, as a full or a broken disk does.
 *
 *   cc -shared -fPIC -O2 -o chaos_io.so chaos_io.c -ldl
 *   LD_PRELOAD=chaos_io.so CHAOS_FOLDER=/checkout CHAOS_FAULT=/file-with-the-error-number command
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* The error number of a write to `fd` now; 0 when it may go on. */
static int fault(int fd) {
    const char *folder = getenv("CHAOS_FOLDER"), *file = getenv("CHAOS_FAULT");
    char link[64], path[PATH_MAX], number[16];
    if (!folder || !file) return 0;
    int saved = errno, handle = open(file, O_RDONLY);
    errno = saved;
    if (handle < 0) return 0;
    ssize_t size = read(handle, number, sizeof number - 1);
    close(handle);
    if (size <= 0) return 0;
    number[size] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof path - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    return strncmp(path, folder, strlen(folder)) == 0 ? atoi(number) : 0;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define OR_FAIL(fd) do { int error = fault(fd); if (error) { errno = error; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t size) { REAL(write); OR_FAIL(fd); return real(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int count) { REAL(writev); OR_FAIL(fd); return real(fd, parts, count); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite); OR_FAIL(fd); return real(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64); OR_FAIL(fd); return real(fd, data, size, at); }
int fsync(int fd) { REAL(fsync); OR_FAIL(fd); return real(fd); }
ssize_t sendfile(int to, int from, off_t *at, size_t size) { REAL(sendfile); OR_FAIL(to); return real(to, from, at, size); }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { REAL(sendfile64); OR_FAIL(to); return real(to, from, at, size); }
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t size, unsigned flags) {
    REAL(copy_file_range);
    OR_FAIL(to);
    return real(from, at, to, to_at, size, flags);
}
