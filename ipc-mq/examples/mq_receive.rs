//! Waits for a message and prints it.
use ipc_mq::Receiver;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut rx = ipc_mq::receiver("greetings")?;
    println!("{}", String::from_utf8_lossy(&rx.recv()?));
    Ok(())
}
