//! Static checks of the data files.

use super::Spec;
use super::expr::Expr;
use super::map::Each;
use super::template::alternatives;

impl Spec {
    /// What is wrong with the data files, beyond their form.
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for arch in self.archs.values() {
            for (name, value) in &arch.fixed {
                match self.key(name) {
                    None => problems.push(format!("arch/{}: there is no key `{name}`", arch.id)),
                    Some(key) => {
                        problems.extend(key.problem(&key.normal(value.clone())).map(|wanted| {
                            format!("arch/{}: `{name}` is {value}, and has to be {wanted}", arch.id)
                        }))
                    }
                }
            }
            for task in arch.tasks.iter().filter(|task| self.task(task).is_none()) {
                problems.push(format!("arch/{}: there is no task `{task}`", arch.id));
            }
        }
        for map in self.maps.values() {
            let at = format!("map/{}/{}", map.format, map.name);
            let arch = &self.archs[&map.arch];
            for rule in &map.rules {
                let bound = |variable: &str| {
                    let (name, index) = variable.split_once('.').unwrap_or((variable, ""));
                    let over = rule.over.iter().any(|(over, _)| over == name);
                    over || rule.each.iter().any(|(each, values)| {
                        each == name
                            && match values {
                                Each::Count(_) => index.is_empty(),
                                Each::Texts(texts) => texts.iter().all(|texts| match index {
                                    "" => texts.len() == 1,
                                    index => {
                                        index.parse().is_ok_and(|index: usize| index < texts.len())
                                    }
                                }),
                            }
                    })
                };
                let conditions = rule.beside.iter().chain(&rule.unless);
                let templates =
                    rule.from.iter().chain(&rule.also).chain(&rule.to).chain(conditions);
                for template in templates {
                    let computed = |text: &str| {
                        Expr::parse(text).is_ok_and(|expr| expr.names().into_iter().all(bound))
                    };
                    let unbound = |variable: &&str| !bound(variable) && !computed(variable);
                    for variable in template.variables().filter(unbound) {
                        problems.push(format!(
                            "{at}: `{}`: {{{variable}}} is not bound",
                            template.text
                        ));
                    }
                }
                if let Some(tie) = &rule.tie
                    && self.role(tie).is_none()
                {
                    problems.push(format!("{at}: there is no role `{tie}`"));
                }
            }
            for key in &map.keys {
                let name = key.to.as_str();
                let is_token = name.starts_with("tokens.");
                if !is_token && !name.starts_with('_') && self.key(name).is_none() {
                    problems.push(format!("{at}: there is no key `{name}`"));
                }
            }
            for key in &self.keys {
                let has = |name: &str| {
                    map.keys.iter().any(|rule| rule.to == name) || arch.fixed.contains_key(name)
                };
                let stacked = arch.stacks.iter().any(|stack| has(&format!("{stack}.{}", key.name)));
                if key.when.is_none() && !has(&key.name) && !stacked {
                    problems.push(format!("{at}: nothing gives `{}`", key.name));
                }
            }
            for task in map.tasks.iter().filter(|task| !arch.tasks.contains(&task.id)) {
                problems.push(format!("{at}: {} does not serve {}", arch.id, task.id));
            }
        }
        // A role that no architecture uses is dead.
        for role in &self.roles {
            let pattern = |text: &str| text.replace("{stack}", "*").replace("{name}", "*");
            let used = self.archs.values().any(|arch| {
                arch.templates().any(|template| {
                    alternatives(template).iter().any(|text| {
                        let mut text = text.clone();
                        for stack in &arch.stacks {
                            if let Some(rest) = text.strip_prefix(&format!("{stack}.")) {
                                text = format!("*.{rest}");
                            }
                        }
                        pattern(&text) == pattern(&role.template.text)
                            || self
                                .role(&text)
                                .is_some_and(|known| known.role.template == role.template)
                    })
                })
            });
            if !used {
                problems.push(format!("roles: no architecture has `{}`", role.template.text));
            }
        }
        problems
    }
}
