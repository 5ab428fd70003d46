//! The system calls that a container may make (OCI runtime specification, "Seccomp").
//!
//! They are those of Docker's default profile for the capabilities that a container has here. Any other ends in `EPERM`.

use serde_json::Value;
use serde_json::json;

/// Calls that are free to all.
const ALLOWED: &str = "\
_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
chown32 chroot clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 \
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate \
fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr \
flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate \
ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list \
get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 \
getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid \
getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday \
getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set \
ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link \
linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise \
map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 \
mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 \
mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall \
munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe \
pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 \
process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev \
pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg \
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir \
rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity \
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget \
semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list \
set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups \
setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 \
setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt \
shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat \
stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time \
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate \
truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork \
vmsplice wait4 waitid waitpid write writev";

/// Calls that only some processors have. The runtime ignores names that it does not know on its own.
const OF_PROCESSORS: &str = "\
arch_prctl arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush modify_ldt riscv_flush_icache \
s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr set_tls swapcontext sync_file_range2";

/// The kinds of sockets that may be opened: none of `AF_ALG` (38) and `AF_VSOCK` (40), which reach the kernel's ciphers and the
/// host of a virtual machine.
const SOCKETS: [(&str, u64); 3] = [("SCMP_CMP_LT", 38), ("SCMP_CMP_EQ", 39), ("SCMP_CMP_GT", 40)];
/// The execution domains that a program may change to, and the question which it is in.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// The flags of `clone` that make namespaces.
const NAMESPACES: u64 = 0x7e02_0000;
const ENOSYS: u32 = 38;

/// Describes what a container may call on a processor, as Rust names it.
pub(super) fn profile(processor: &str) -> Value {
    let allow =
        |names: Value, args: Value| json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": args });
    let argument = |index: usize, op: &str, value: u64| json!([{ "index": index, "op": op, "value": value, "valueTwo": 0 }]);
    let free: Vec<&str> = ALLOWED.split(' ').chain(OF_PROCESSORS.split(' ')).collect();
    let mut calls = vec![allow(json!(free), json!([]))];
    calls.extend(SOCKETS.map(|(op, kind)| allow(json!(["socket"]), argument(0, op, kind))));
    calls.extend(PERSONALITIES.map(|value| allow(json!(["personality"]), argument(0, "SCMP_CMP_EQ", value))));
    let flags = if processor == "s390x" { 1 } else { 0 };
    calls.push(allow(json!(["clone"]), argument(flags, "SCMP_CMP_MASKED_EQ", NAMESPACES)));
    // Its flags are in memory, where no filter sees them; libraries go on with `clone`.
    calls.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    let mut profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": calls });
    // Without any, the runtime's own alone is meant.
    let architectures: &[&str] = match processor {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "s390x" => &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        _ => &[],
    };
    if !architectures.is_empty() {
        profile["architectures"] = json!(architectures);
    }
    profile
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the rules for a call.
    fn rules(profile: &Value, call: &str) -> Vec<Value> {
        let calls = profile["syscalls"].as_array().unwrap().iter();
        calls.filter(|rule| rule["names"].as_array().unwrap().contains(&json!(call))).cloned().collect()
    }

    #[test]
    fn what_reaches_the_host_is_not_on_the_list() {
        for processor in ["x86_64", "aarch64", "s390x", "riscv64"] {
            let profile = profile(processor);
            assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
            for call in [
                "mount",
                "umount2",
                "unshare",
                "setns",
                "bpf",
                "keyctl",
                "add_key",
                "request_key",
                "kexec_load",
                "init_module",
                "finit_module",
                "open_by_handle_at",
                "perf_event_open",
                "userfaultfd",
                "reboot",
                "swapon",
                "syslog",
                "fsopen",
                "open_tree",
                "move_mount",
                "mount_setattr",
                "io_uring_setup",
                "pivot_root",
                "iopl",
                "settimeofday",
                "acct",
            ] {
                assert!(rules(&profile, call).is_empty(), "{call}");
            }
            for call in [
                "execve",
                "openat",
                "read",
                "fork",
                "chroot",
                "seccomp",
                "openat2",
                "futex_waitv",
                "riscv_flush_icache",
            ] {
                assert_eq!(rules(&profile, call).len(), 1, "{call}");
            }
            assert_eq!(rules(&profile, "clone3")[0]["errnoRet"], ENOSYS);
            assert_eq!((rules(&profile, "socket").len(), rules(&profile, "personality").len()), (3, 5));
        }
        // The parameters of this processor's stand the other way round.
        let of_clone = |processor| rules(&profile(processor), "clone")[0]["args"][0]["index"].clone();
        assert_eq!((of_clone("x86_64"), of_clone("s390x")), (json!(0), json!(1)));
        assert_eq!(profile("riscv64")["architectures"], Value::Null);
    }

    #[test]
    fn no_name_stands_twice() {
        let names: Vec<&str> = ALLOWED.split(' ').chain(OF_PROCESSORS.split(' ')).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert!(names.iter().all(|name| !name.is_empty()));
    }
}
