//! The CNI plugin as a program of its own. In the image it is `k3sd` under another name.

fn main() -> std::process::ExitCode {
    network::cni::main()
}
