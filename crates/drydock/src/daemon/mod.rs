//! Not here yet.
pub(crate) async fn serve(_config: crate::config::Config) -> anyhow::Result<()> {
    anyhow::bail!("x")
}
