// Imitates another processor at full speed: libraries that ask which instructions there are get its answer.
//
//     mkdir -p .cache && cc -O2 -shared -fPIC -o .cache/imitate.so benchmarks/imitate.c
//     LD_AUDIT=$PWD/.cache/imitate.so IMITATE=haswell python ...
//
// They ask by the instruction CPUID, which only some processors let a program trap. So as the dynamic loader maps a
// library (rtld-audit(7)), objdump finds every CPUID in it, and UD2, an invalid instruction of the same length, takes
// its place; the handler of the signal that it raises gives the answer. Where they lie is remembered in
// $TMPDIR/imitate-UID: for PyTorch's library alone objdump takes minutes.
//
// The arithmetic stays that of the real processor, which must have the instructions of the imitated one. The loader
// itself, and with it the C library's choice among its variants, keeps the real answers.

#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(number) (1u << (number))
#define CPUID_BYTES "\x0f\xa2"
#define UD2_BYTES "\x0f\x0b"

enum { EAX, EBX, ECX, EDX };
enum { AVX512_EBX = BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31), IFMA_EBX = BIT(21) };
enum { VECTOR_ECX = BIT(8) | BIT(9) | BIT(10), AVX512_ECX = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14) };
enum { AVX_VNNI = BIT(4), AVX512_BF16 = BIT(5) }; // leaf 7.1, EAX
enum { KEPT_EDX = BIT(4) | BIT(10) | BIT(14) };   // leaf 7.0: fast short moves, MD_CLEAR, SERIALIZE

static const struct processor {
    const char *name;
    int amd, family, model, cores;
    unsigned l1, l2, l3;         // KiB
    uint32_t ebx, ecx, leaf_7_1; // the vector instructions beyond AVX2
} PROCESSORS[] = {
    {"haswell", 0, 0x06, 0x3c, 4, 32, 256, 8192, 0, 0, 0},
    {"skylake", 0, 0x06, 0x5e, 4, 32, 256, 6144, 0, 0, 0},
    {"alder", 0, 0x06, 0x97, 8, 48, 1280, 30720, 0, VECTOR_ECX, AVX_VNNI},
    {"skx", 0, 0x06, 0x55, 18, 32, 1024, 25344, AVX512_EBX, 0, 0},
    {"icx", 0, 0x06, 0x6a, 32, 48, 1280, 49152, AVX512_EBX | IFMA_EBX, VECTOR_ECX | AVX512_ECX, 0},
    {"zen1", 1, 0x17, 0x01, 8, 32, 512, 8192, 0, 0, 0},
    {"zen2", 1, 0x17, 0x31, 16, 32, 512, 16384, 0, 0, 0},
    {"zen3", 1, 0x19, 0x21, 8, 32, 512, 32768, 0, BIT(9) | BIT(10), 0},
    {"zen4", 1, 0x19, 0x11, 8, 32, 1024, 32768, AVX512_EBX | IFMA_EBX, VECTOR_ECX | AVX512_ECX, AVX512_BF16},
};

static const struct processor *imitated;
static char folder[512];
static uintptr_t replaced[4096];
static size_t replaced_count;

static void fail(const char *rule, const char *value) {
    fprintf(stderr, "imitate: %s; received %s\n", rule, value);
    _exit(1);
}

// --- the answers ------------------------------------------------------------------------------------

static void vendor(uint32_t *r, const char *text) {
    memcpy(&r[EBX], text, 4);
    memcpy(&r[EDX], text + 4, 4);
    memcpy(&r[ECX], text + 8, 4);
}

static void cache(uint32_t number, uint32_t *r) {
    const struct {
        unsigned level, type, size, ways, shared;
    } caches[] = {{1, 1, imitated->l1, imitated->l1 / 4, 1}, // type: 1 data, 2 instructions, 3 both
                  {1, 2, 32, 8, 1},
                  {2, 3, imitated->l2, imitated->l2 == 1280 ? 10 : 8, 1},
                  {3, 3, imitated->l3, imitated->l3 % 3 ? 16 : 12, imitated->cores}};
    memset(r, 0, 16);
    if (number >= sizeof caches / sizeof *caches)
        return;
    unsigned ways = caches[number].ways, lines = caches[number].size * 1024 / 64;
    r[EAX] = caches[number].type | caches[number].level << 5 | BIT(8) | (caches[number].shared - 1) << 14;
    if (!imitated->amd)
        r[EAX] |= (imitated->cores - 1) << 26;
    r[EBX] = 63 | (ways - 1) << 22; // lines of 64 bytes
    r[ECX] = lines / ways - 1;
}

static void answer(uint32_t leaf, uint32_t number, uint32_t *r) {
    const int amd = imitated->amd;
    __cpuid_count(leaf, number, r[EAX], r[EBX], r[ECX], r[EDX]);
    switch (leaf) {
    case 0:
        r[EAX] = amd ? 0x10 : 0x16;
        vendor(r, amd ? "AuthenticAMD" : "GenuineIntel");
        return;
    case 1: {
        uint32_t base = imitated->family > 15 ? 15 : imitated->family;
        r[EAX] = (imitated->model & 15) << 4 | base << 8 | (imitated->model >> 4) << 16 |
                 (imitated->family - base) << 20 | 2;
        r[EBX] = (r[EBX] & ~0xff0000u) | imitated->cores << 16;
        return;
    }
    case 2: // Intel: "see leaf 4"
        memset(r, 0, 16);
        r[EAX] = amd ? 0 : 0x00feff01;
        return;
    case 4:
        cache(amd ? 9 : number, r);
        return;
    case 7:
        if (number == 0) {
            r[EAX] = 1;
            r[EBX] &= ~(AVX512_EBX | IFMA_EBX | BIT(26) | BIT(27)) | imitated->ebx;
            r[ECX] &= ~(VECTOR_ECX | AVX512_ECX) | imitated->ecx;
            r[EDX] &= KEPT_EDX;
        } else {
            uint32_t kept = number == 1 ? r[EAX] & imitated->leaf_7_1 : 0;
            memset(r, 0, 16);
            r[EAX] = kept;
        }
        return;
    case 0xb: {
        uint32_t id = r[EDX];
        memset(r, 0, 16);
        r[ECX] = number;
        r[EDX] = id;
        if (number < 2) {
            r[EAX] = number ? 7 : 0;
            r[EBX] = number ? imitated->cores : 1;
            r[ECX] |= (number + 1) << 8;
        }
        return;
    }
    case 0xd: // how registers are saved: a matter of the real processor
        return;
    case 0x80000000:
        memset(r, 0, 16);
        if (amd)
            vendor(r, "AuthenticAMD");
        r[EAX] = amd ? 0x80000021 : 0x80000008;
        return;
    case 0x80000001:
        r[ECX] = BIT(0) | BIT(5) | BIT(8) | (amd ? BIT(6) | BIT(22) : 0);
        return;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: {
        char text[48] = "imitated ";
        strncat(text, imitated->name, sizeof text - 10);
        memcpy(r, text + 16 * (leaf - 0x80000002), 16);
        return;
    }
    case 0x80000005:
        memset(r, 0, 16);
        if (amd)
            r[ECX] = r[EDX] = imitated->l1 << 24 | 8 << 16 | 1 << 8 | 64;
        return;
    case 0x80000006:
        memset(r, 0, 16);
        r[ECX] = imitated->l2 << 16 | 6 << 12 | 1 << 8 | 64;
        if (amd)
            r[EDX] = (imitated->l3 / 512) << 18 | 8 << 12 | 1 << 8 | 64;
        return;
    case 0x80000008:
        r[ECX] = (r[ECX] & ~0xffu) | (imitated->cores - 1);
        return;
    case 0x8000001d:
        cache(amd ? number : 9, r);
        return;
    default:
        memset(r, 0, 16);
    }
}

static void on_ud2(int signal_number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    for (size_t i = 0; i < replaced_count; i++)
        if (replaced[i] == (uintptr_t)registers[REG_RIP]) {
            uint32_t r[4];
            answer(registers[REG_RAX], registers[REG_RCX], r);
            registers[REG_RAX] = r[EAX], registers[REG_RBX] = r[EBX];
            registers[REG_RCX] = r[ECX], registers[REG_RDX] = r[EDX];
            registers[REG_RIP] += 2;
            return;
        }
    signal(signal_number, SIG_DFL); // an invalid instruction of the program's own
}

// --- the replacement --------------------------------------------------------------------------------

// The file that lists where in a library CPUID lies: one hexadecimal virtual address a line.
static void find(const char *library, char *list, size_t size) {
    struct stat known;
    char part[PATH_MAX], *line = NULL, instruction[16];
    size_t line_size = 0;
    unsigned long address;
    if (stat(library, &known))
        fail("a mapped library must be a file", library);
    const char *file = strrchr(library, '/') + 1;
    if (snprintf(list, size, "%s/%s-%lld-%lld", folder, file, (long long)known.st_size, (long long)known.st_mtime) >=
            (int)size ||
        snprintf(part, sizeof part, "%s.%d", list, getpid()) >= (int)sizeof part)
        fail("a library's name must be shorter", library);
    if (!access(list, R_OK))
        return;
    // not by a shell: its libraries would come here too
    char *words[] = {"objdump", "-dw", "--no-show-raw-insn", (char *)library, NULL}, *environment[] = {NULL};
    int ends[2], status;
    pid_t process;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (pipe(ends))
        fail("a pipe must open", strerror(errno));
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    status = posix_spawnp(&process, words[0], &actions, NULL, words, environment);
    if (status)
        fail("objdump must start", strerror(status));
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    FILE *disassembly = fdopen(ends[0], "r"), *found = fopen(part, "w");
    if (!disassembly || !found)
        fail("a list must be writable", part);
    while (getline(&line, &line_size, disassembly) >= 0)
        if (sscanf(line, " %lx: %15s", &address, instruction) == 2 && !strcmp(instruction, "cpuid"))
            fprintf(found, "%lx\n", address);
    free(line);
    fclose(disassembly);
    if (waitpid(process, &status, 0) != process || status || fclose(found) || rename(part, list))
        fail("objdump must be able to read a mapped library", library);
}

static void replace(const char *library, uintptr_t base) {
    char list[PATH_MAX];
    find(library, list, sizeof list);
    FILE *file = fopen(list, "r");
    if (!file)
        fail("the list of instructions must be readable", list);
    unsigned long address;
    while (fscanf(file, "%lx", &address) == 1) {
        char *at = (char *)(base + address);
        uintptr_t page = (uintptr_t)at & -4096, length = (uintptr_t)at + 2 - page;
        if (memcmp(at, CPUID_BYTES, 2) || replaced_count == sizeof replaced / sizeof *replaced)
            fail("CPUID must lie where objdump finds it, in at most 4096 places", library);
        if (mprotect((void *)page, length, PROT_READ | PROT_WRITE | PROT_EXEC))
            fail("a library's pages must be writable", strerror(errno));
        memcpy(at, UD2_BYTES, 2);
        mprotect((void *)page, length, PROT_READ | PROT_EXEC);
        replaced[replaced_count++] = (uintptr_t)at;
    }
    fclose(file);
}

static int has_instructions(void) {
    uint32_t eax, ebx, ecx, edx, leaf_7_1;
    __cpuid_count(7, 1, leaf_7_1, ebx, ecx, edx);
    __cpuid_count(7, 0, eax, ebx, ecx, edx);
    return !((imitated->ebx & ~ebx) | (imitated->ecx & ~ecx) | (imitated->leaf_7_1 & ~leaf_7_1));
}

unsigned la_version(unsigned version) {
    const char *name = getenv("IMITATE");
    for (size_t i = 0; name && i < sizeof PROCESSORS / sizeof *PROCESSORS; i++)
        if (!strcmp(PROCESSORS[i].name, name))
            imitated = &PROCESSORS[i];
    if (!imitated)
        fail("IMITATE must be a processor of imitate.c", name ? name : "nothing");
    if (!has_instructions())
        fail("this processor must have the vector instructions of the imitated one", name);
    const char *temporary = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/imitate-%d", temporary ? temporary : "/tmp", getuid());
    if (mkdir(folder, 0700) && errno != EEXIST)
        fail("a folder for lists must be writable", folder);
    struct sigaction action = {.sa_sigaction = on_ud2, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigaction(SIGILL, &action, NULL);
    return version;
}

unsigned la_objopen(struct link_map *map, Lmid_t space, uintptr_t *cookie) {
    (void)space, (void)cookie;
    if (!*map->l_name) {
        char program[PATH_MAX] = "";
        if (readlink("/proc/self/exe", program, sizeof program - 1) < 0)
            fail("the program must be known", strerror(errno));
        replace(program, map->l_addr);
    } else if (strchr(map->l_name, '/') && !strstr(map->l_name, "/ld-linux")) // not the kernel's own, not the loader
        replace(map->l_name, map->l_addr);
    return 0;
}
