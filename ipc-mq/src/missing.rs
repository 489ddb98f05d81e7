//! A program that asks for what a transport hasn't doesn't compile, for that reason and no other:
//! the same one compiles for each that has it.

/// For each capability a program that asks for it, of each endpoint that has it and of each that
/// hasn't.
macro_rules! capabilities {
    ($($capability:ident of { $($has:literal)+ } not of { $($lacks:literal)+ })+) => {$(
        $(
            #[doc = concat!(
                "```\n",
                "fn ask<E: ipc_mq::", stringify!($capability), ">() {}\n",
                "ask::<ipc_mq::", $has, ">();\n",
                "```\n"
            )]
        )+
        $(
            #[doc = concat!(
                "```compile_fail,E0277\n",
                "fn ask<E: ipc_mq::", stringify!($capability), ">() {}\n",
                "ask::<ipc_mq::", $lacks, ">();\n",
                "```\n"
            )]
        )+
        struct $capability;
    )+};
}

capabilities! {
    PrioritySender of { "MqSender" "SysvSender<ipc_mq::ByPriority>" } not of { "SysvSender" "UnixSender" }
    PriorityReceiver of { "MqReceiver" "SysvReceiver<ipc_mq::ByPriority>" } not of { "SysvReceiver" "UnixReceiver" }
    TypeSender of { "SysvSender" } not of { "MqSender" "UnixSender" "SysvSender<ipc_mq::ByPriority>" }
    SelectiveReceiver of { "SysvReceiver" } not of { "MqReceiver" "UnixReceiver" "SysvReceiver<ipc_mq::ByPriority>" }
    Peek of { "SysvReceiver" "SysvReceiver<ipc_mq::ByPriority>" } not of { "MqReceiver" "UnixReceiver" }
    Notify of { "MqReceiver" } not of { "SysvReceiver" "UnixReceiver" }
    Pollable of { "MqReceiver" "UnixReceiver" } not of { "SysvReceiver" "SysvReceiver<ipc_mq::ByPriority>" }
    DescriptorSender of { "UnixSender" } not of { "MqSender" "SysvSender" }
    DescriptorReceiver of { "UnixReceiver" } not of { "MqReceiver" "SysvReceiver" }
    PeerCredentials of { "UnixReceiver" } not of { "MqReceiver" "SysvReceiver" }
}
