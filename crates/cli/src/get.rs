//! `get`: shows objects, as the server tabulates them or in full.

use api::kind::Kind;
use api::quantity::Quantity;
use client::resource::with_query;
use client::watch::Watch;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::manifest::Files;
use crate::print::jsonpath::{self, Template};
use crate::print::table::{self, Extra, Table};
use crate::print::{self, Format};
use crate::session::{Call, Connection, JSON, Session};
use crate::target::{self, Selectors, Target};

/// Asks for a table, and takes an object where there is none.
pub(crate) const TABLE: &str =
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

const UNNAMED: &str = "You must specify the type of resource to get. Use \"podling api-resources\" for a complete list of \
                       supported resources.\n\nerror: Required resource not specified.\nUse \"podling explain <resource>\" \
                       for a detailed description of that resource (e.g. podling explain pods).\nSee 'podling get -h' for \
                       help and examples";

/// The options of `get`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    /// TYPE, TYPE NAME…, TYPE/NAME… or TYPE,TYPE…
    #[arg(value_name = "TYPE [NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// How to show them: wide, yaml, json, name, jsonpath=TEMPLATE, jsonpath-file=FILE, custom-columns=HEADER:PATH,…
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<String>,
    /// Go on showing changes
    #[arg(short, long)]
    watch: bool,
    /// Show changes only
    #[arg(long)]
    watch_only: bool,
    #[command(flatten)]
    selectors: Selectors,
    /// A column for each of these labels
    #[arg(short = 'L', long, value_name = "LABELS", value_delimiter = ',')]
    label_columns: Vec<String>,
    /// A column with all labels
    #[arg(long)]
    show_labels: bool,
    /// The word of the kind before each name
    #[arg(long)]
    show_kind: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Leave out the headers
    #[arg(long)]
    no_headers: bool,
    /// Sort by the field at this path
    #[arg(long, value_name = "PATH")]
    sort_by: Option<String>,
    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
}

/// One request's worth of objects.
struct Source {
    kind: &'static Kind,
    namespace: Option<String>,
    name: Option<String>,
}

impl Source {
    fn path(&self) -> String {
        match &self.name {
            Some(name) => crate::session::object(self.kind, self.namespace.as_deref().unwrap_or_default(), name),
            None => self.collection(),
        }
    }

    fn collection(&self) -> String {
        crate::session::collection(self.kind, self.namespace.as_deref())
    }
}

/// Shows objects.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let format = options.output.as_deref().map(Format::parse).transpose()?;
    let session = options.connection.open()?;
    let (sources, mut failures) = options.sources(&session)?;
    if sources.is_empty() && failures.is_empty() {
        return Err(Failure::Bare(UNNAMED.to_owned()));
    }
    if options.watch || options.watch_only {
        return Follower { options: &options, session: &session, format }.run(&sources).await;
    }
    match &format {
        None | Some(Format::Wide) => options.tables(&session, &sources, &mut failures).await?,
        Some(format) => options.objects(&session, format, &sources, &mut failures).await?,
    }
    Failure::of(failures)
}

impl Options {
    fn sources(&self, session: &Session) -> Result<(Vec<Source>, Vec<Failure>), Failure> {
        if !self.files.filename.is_empty() {
            let (documents, failures) = self.files.read(session);
            let source = |document: crate::manifest::Document| Source {
                kind: document.kind,
                namespace: document.kind.is_namespaced().then(|| document.namespace.clone()),
                name: Some(document.name().to_owned()),
            };
            return Ok((documents.into_iter().map(source).collect(), failures));
        }
        let targets = target::parse(&self.targets)?;
        let is_named = targets.iter().any(|target| target.name.is_some());
        if is_named && self.all_namespaces {
            return Err(Failure::text("a resource cannot be retrieved by name across all namespaces"));
        }
        if is_named && !self.selectors.selector.is_empty() {
            return Err(Failure::text("name cannot be provided when a selector is specified"));
        }
        let source = |Target { kind, name }| {
            let namespace = (kind.is_namespaced() && !self.all_namespaces).then(|| session.namespace.clone());
            Source { kind, namespace, name }
        };
        Ok((targets.into_iter().map(source).collect(), Vec::new()))
    }

    fn extra(&self, kind: &Kind, is_among_others: bool) -> Extra {
        Extra {
            is_wide: self.output.as_deref() == Some("wide"),
            has_namespace: self.all_namespaces && kind.is_namespaced(),
            kind: (self.show_kind || is_among_others).then(|| target::word(kind)),
            labels: self.label_columns.clone(),
            has_all_labels: self.show_labels,
        }
    }

    /// What a source gives, all pages as one.
    async fn fetch(&self, session: &Session, source: &Source, accept: &str) -> Result<Value, Failure> {
        if source.name.is_some() {
            return session.call(Call::get(with_query(&source.path(), &self.included())).accept(accept)).await;
        }
        let mut whole = Value::Null;
        let mut next = String::new();
        loop {
            let mut query = self.selectors.query();
            query.extend(self.included());
            if self.sort_by.is_none() {
                query.push(("limit", "500"));
            }
            if !next.is_empty() {
                query.push(("continue", &next));
            }
            let page = session.call(Call::get(with_query(&source.path(), &query)).accept(accept)).await?;
            next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            whole = join(whole, page);
            if next.is_empty() {
                return Ok(whole);
            }
        }
    }

    /// Sorting needs the objects beside their rows.
    fn included(&self) -> Vec<(&str, &str)> {
        if self.sort_by.is_some() { vec![("includeObject", "Object")] } else { Vec::new() }
    }

    async fn tables(&self, session: &Session, sources: &[Source], failures: &mut Vec<Failure>) -> Result<(), Failure> {
        let mut groups: Vec<(&'static Kind, Vec<Value>)> = Vec::new();
        for source in sources {
            match self.fetch(session, source, TABLE).await {
                Ok(table) => match groups.last_mut() {
                    Some((kind, tables)) if *kind == source.kind => tables.push(table),
                    _ => groups.push((source.kind, vec![table])),
                },
                Err(failure) if self.ignore_not_found && failure.is_not_found() => {}
                Err(failure) => failures.push(failure),
            }
        }
        groups.retain(|(_, tables)| tables.iter().any(has_rows));
        let is_among_others = target::is_several(&self.targets) || groups.iter().any(|(kind, _)| *kind != groups[0].0);
        for (index, (kind, tables)) in groups.iter().enumerate() {
            if index > 0 {
                print::line("");
            }
            self.show(&self.extra(kind, is_among_others), tables)?;
        }
        if groups.is_empty() && failures.is_empty() && !self.ignore_not_found {
            print::complain(&self.nothing(session, sources));
        }
        Ok(())
    }

    fn nothing(&self, session: &Session, sources: &[Source]) -> String {
        let is_in_namespace = !self.all_namespaces && sources.iter().any(|source| source.kind.is_namespaced());
        match is_in_namespace {
            true => format!("No resources found in {} namespace.", session.namespace),
            false => "No resources found".to_owned(),
        }
    }

    fn show(&self, extra: &Extra, tables: &[Value]) -> Result<(), Failure> {
        let mut lines = Vec::new();
        if !self.no_headers {
            lines.push(table::header(&tables[0], extra));
        }
        let rows = tables.iter().flat_map(|table| table["rows"].as_array().into_iter().flatten());
        let mut rows: Vec<Value> = rows.cloned().collect();
        self.sort(&mut rows, |row| &row["object"])?;
        lines.extend(rows.iter().map(|row| table::cells(&tables[0], row, extra)));
        print::out(&Table::default().lines(&lines));
        Ok(())
    }

    /// Sorts by what `--sort-by` leads to; what has no such field comes first.
    fn sort(&self, items: &mut [Value], object: impl Fn(&Value) -> &Value) -> Result<(), Failure> {
        let Some(path) = &self.sort_by else { return Ok(()) };
        let path = Template::relaxed(path).map_err(Failure::text)?;
        let mut is_found = items.is_empty();
        for item in items.iter() {
            is_found |= !path.values(object(item)).map_err(Failure::text)?.is_empty();
        }
        if !is_found {
            let text = self.sort_by.as_deref().unwrap_or_default();
            return Err(Failure::text(format!(
                "couldn't find any field with path \"{{{text}}}\" in the list of objects"
            )));
        }
        items.sort_by(|left, right| {
            let first =
                |item| path.values(object(item)).ok().and_then(|values| values.first().map(|value| (*value).clone()));
            match (first(left), first(right)) {
                (Some(left), Some(right)) => order(&left, &right),
                (left, right) => left.is_some().cmp(&right.is_some()),
            }
        });
        Ok(())
    }

    async fn objects(
        &self,
        session: &Session,
        format: &Format,
        sources: &[Source],
        failures: &mut Vec<Failure>,
    ) -> Result<(), Failure> {
        let mut items = Vec::new();
        for source in sources {
            match self.fetch(session, source, JSON).await {
                Ok(mut list) if source.name.is_none() => items.extend(typed(&mut list, source.kind)),
                Ok(object) => items.push(object),
                Err(failure) if self.ignore_not_found && failure.is_not_found() => {}
                Err(failure) => failures.push(failure),
            }
        }
        self.sort(&mut items, |item| item)?;
        let is_single = sources.len() == 1 && sources[0].name.is_some();
        if items.is_empty() && (is_single || !failures.is_empty() || self.ignore_not_found) {
            return Ok(());
        }
        let shown = match is_single {
            true => items.remove(0),
            false => json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items}),
        };
        print::out(&format.show(&shown)?);
        Ok(())
    }
}

/// The order of two values: numbers and quantities by size, the rest by its text.
fn order(left: &Value, right: &Value) -> std::cmp::Ordering {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        return match (Quantity::parse(left), Quantity::parse(right)) {
            (Ok(left), Ok(right)) => left.cmp(&right),
            _ => left.cmp(right),
        };
    }
    jsonpath::compare(left, right).unwrap_or(std::cmp::Ordering::Equal)
}

fn has_rows(table: &Value) -> bool {
    table["rows"].as_array().is_some_and(|rows| !rows.is_empty())
}

/// Appends a page of a list or table.
fn join(whole: Value, mut page: Value) -> Value {
    if whole.is_null() {
        return page;
    }
    let mut whole = whole;
    for field in ["items", "rows"] {
        if let (Some(all), Value::Array(more)) = (whole[field].as_array_mut(), page[field].take()) {
            all.extend(more);
        }
    }
    whole
}

/// The objects of a list, which names their kind once for all.
fn typed(list: &mut Value, kind: &Kind) -> Vec<Value> {
    let Value::Array(mut items) = list["items"].take() else { return Vec::new() };
    for item in &mut items {
        item["apiVersion"] = kind.api_version().into();
        item["kind"] = kind.kind.into();
    }
    items
}

/// `get -w`.
struct Follower<'a> {
    options: &'a Options,
    session: &'a Session,
    format: Option<Format>,
}

impl Follower<'_> {
    async fn run(&self, sources: &[Source]) -> Result<(), Failure> {
        let [source] = sources else {
            return Err(Failure::text("you may only specify a single resource type"));
        };
        let is_table = matches!(self.format, None | Some(Format::Wide));
        let accept = if is_table { TABLE } else { JSON };
        let extra = self.options.extra(source.kind, false);
        let (mut lines, mut columns) = (Table::default(), Value::Null);
        let first = self.options.fetch(self.session, source, accept).await?;
        let version = first["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        if is_table && (has_rows(&first) || self.options.watch_only) {
            columns = first.clone();
        }
        if !self.options.watch_only {
            self.begin(source, &first, &extra, &mut lines)?;
        }
        let mut query = self.options.selectors.query();
        let selector;
        if let Some(name) = &source.name {
            selector = format!("metadata.name={name}");
            query = vec![("fieldSelector", &selector)];
        }
        query.extend([("resourceVersion", version.as_str()), ("watch", "true")]);
        let call = Call::get(with_query(&source.collection(), &query)).accept(accept);
        let mut watch = Watch::new(self.session.stream(call).await?);
        let mut has_header = !columns.is_null() && !self.options.watch_only;
        while let Some(line) = watch.line().await? {
            let event: Value = serde_json::from_slice(&line)
                .map_err(|error| Failure::text(format!("reading a watch event: {error}")))?;
            let object = &event["object"];
            if event["type"] == "ERROR" {
                let status = serde_json::from_value(object.clone());
                return Err(status.map_or_else(|_| Failure::text("the watch broke off"), |s| Failure::Api(Box::new(s))));
            }
            if !is_table {
                self.whole(object)?;
                continue;
            }
            if object["columnDefinitions"].is_array() {
                columns = object.clone();
            }
            let mut rows = Vec::new();
            if !std::mem::replace(&mut has_header, true) && !self.options.no_headers {
                rows.push(table::header(&columns, &extra));
            }
            rows.extend(table::rows(&columns, object, &extra));
            print::out(&lines.lines(&rows));
        }
        Ok(())
    }

    /// What was there before the first change.
    fn begin(&self, source: &Source, first: &Value, extra: &Extra, lines: &mut Table) -> Result<(), Failure> {
        if !matches!(self.format, None | Some(Format::Wide)) {
            let mut first = first.clone();
            let items = if source.name.is_some() { vec![first] } else { typed(&mut first, source.kind) };
            return items.iter().try_for_each(|item| self.whole(item));
        }
        if has_rows(first) {
            let mut rows = if self.options.no_headers { Vec::new() } else { vec![table::header(first, extra)] };
            rows.extend(table::rows(first, first, extra));
            print::out(&lines.lines(&rows));
        }
        Ok(())
    }

    fn whole(&self, object: &Value) -> Result<(), Failure> {
        let Some(format) = &self.format else { return Ok(()) };
        if matches!(format, Format::Yaml) {
            print::out("---\n");
        }
        print::out(&format.show(object)?);
        Ok(())
    }
}
